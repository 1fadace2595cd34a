"""No number that is not finite gets into a shard, whichever stage made it: a NaN in the cache is trained on.

Models are looked at where they give their numbers (engine/models/finite.py); here is what a stage makes of
them, and of the numbers of a user's SQL.
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import UserError

_LEFT_OPEN = frozenset({"mass"})  # NaN says there that a server gave none


def check_finite(stage: str, tables: Mapping[str, pa.Table]) -> None:
    """Raise UserError, with the column, where a stage made a number that is NaN or infinite."""
    for name, table in tables.items():
        for column in table.column_names:
            if column not in _LEFT_OPEN and not all(map(_is_finite, table[column].chunks)):
                raise UserError(
                    f"[{stage}] made a number that is not finite (NaN or infinity) in the column {column} of "
                    f"{name}: nothing of this shard is kept; a number of the input, of a model or of the SQL "
                    "that chooses is none, or overflows: mend it, and run the same command again"
                )


def _is_finite(values: pa.Array) -> bool:
    kind = values.type
    if pa.types.is_floating(kind):
        return bool(pc.all(pc.is_finite(values)).as_py() is not False)
    if pa.types.is_map(kind):
        return _is_finite(values.items)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_finite(values.flatten())
    return True
