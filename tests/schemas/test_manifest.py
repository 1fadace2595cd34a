"""A folder says what it was made from, and its files are what their markers say."""

import pytest

from schemas.differences import difference
from schemas.digest import sha256_file
from schemas.errors import UserError
from schemas.manifest import File, verify
from schemas.store import open_store


def test_a_difference_names_the_fact_and_both_values():
    then = {"model": {"weights": "aaa", "dtype": "float32"}, "max_length": 512}
    now = {"model": {"weights": "bbb", "dtype": "float32"}, "max_length": 512}
    assert difference(then, now) == ["model.weights (was aaa, is bbb)"]


def test_a_damaged_or_missing_shard_is_refused_by_name(tmp_path):
    path = tmp_path / "00003.pairs.parquet"
    path.write_bytes(b"x" * 50)
    file = File(path.name, "pairs", 1, sha256_file(path))
    assert verify(open_store(tmp_path), file) == path
    path.write_bytes(b"x" * 49 + b"y")
    with pytest.raises(
        UserError, match=r"00003\.pairs\.parquet: damaged.*run the same `engine precompute` again"
    ):
        verify(open_store(tmp_path), file)
    path.unlink()
    with pytest.raises(UserError, match="it is gone"):
        verify(open_store(tmp_path), file)
