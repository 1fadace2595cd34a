"""A number that is none is found in every column that a stage makes, however deep it lies."""

import pyarrow as pa
import pytest

from engine.finite_rows import check_finite
from schemas.errors import UserError

NAN, INFINITE = float("nan"), float("inf")
GOOD = {
    "score": pa.array([1.5, None]),
    "token_logps": pa.array([[-1.0], None], pa.list_(pa.float32())),
    "scores": pa.array([[("a", 1.0)], None], pa.map_(pa.string(), pa.float64())),
    "text": pa.array(["NaN", None]),
    "mass": pa.array([NAN, None]),
}
BAD = {
    "score": [pa.array([1.5, NAN]), pa.array([INFINITE, None])],
    "token_logps": [pa.array([[-1.0], [-1.0, -INFINITE]], pa.list_(pa.float32()))],
    "scores": [pa.array([[("a", 1.0)], [("b", NAN)]], pa.map_(pa.string(), pa.float64()))],
}


def test_finite_numbers_and_nulls_are_let_pass():
    check_finite("pairs", {"pairs": pa.table(GOOD), "rejects": pa.table({"text": pa.array([], pa.string())})})


@pytest.mark.parametrize("column", BAD)
def test_what_is_not_finite_is_named_by_its_column(column):
    for values in BAD[column]:
        with pytest.raises(
            UserError, match=rf"\[pairs\] made a number that is not finite .* column {column} of"
        ):
            check_finite("pairs", {"pairs": pa.table(GOOD | {column: values})})
        with pytest.raises(UserError, match=column):
            check_finite("pairs", {"pairs": pa.table(GOOD | {column: values}).slice(0)})
