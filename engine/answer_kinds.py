"""A query's answer as polars can take it: what it cannot show is text, as DuckDB writes it.

polars has no unions and no intervals, and panics over a date beyond its calendar, of which `infinity` is one,
and over bytes within lists and objects. A date there becomes one of Python's, whose years go from 1 to 9999.
"""

import contextlib
import datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

_DAY = 24 * 60 * 60
_FIRST = datetime.date.min.toordinal() - datetime.date(1970, 1, 1).toordinal()  # days
_LAST = datetime.date.max.toordinal() - datetime.date(1970, 1, 1).toordinal()
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_LARGEST = (1 << 63) - 1  # how DuckDB writes infinity, in whatever unit


def as_polars_takes(rows: pa.Table) -> pa.Table:
    """The rows with each column that polars cannot show cast to text."""
    columns: list[pa.ChunkedArray] = []
    for column in rows.columns:
        is_taken = all(map(_is_taken, column.chunks)) and not _holds_bytes(column.type, depth=0)
        columns.append(column if is_taken else _as_text(column))
    # Without what a field says of its type besides, such as that these bytes are a geometry.
    return pa.table(columns, names=rows.column_names)


def _holds_bytes(kind: pa.DataType, depth: int) -> bool:
    """Whether there are bytes within lists or objects."""
    if pa.types.is_nested(kind) and not pa.types.is_union(kind):
        inner = (kind.field(index).type for index in range(kind.num_fields))
        return any(_holds_bytes(one, depth + 1) for one in inner)
    return depth > 0 and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as DuckDB writes it as text."""
    from engine.sql import closed

    with contextlib.closing(closed({"answer": pa.table({"value": column})})) as con:
        try:
            return con.sql("select value::varchar as value from answer").to_arrow_table()["value"]
        except duckdb.Error:
            return column  # polars says what it cannot take


def _is_taken(values: pa.Array) -> bool:
    """Whether polars can show the values, those within lists and objects too."""
    kind = values.type
    if pa.types.is_union(kind) or pa.types.is_interval(kind) or isinstance(kind, pa.BaseExtensionType):
        return False
    if pa.types.is_map(kind):
        return _is_taken(values.keys) and _is_taken(values.items)
    if pa.types.is_struct(kind):
        return all(map(_is_taken, values.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_taken(values.flatten())
    limits = _limits(kind)
    return limits is None or _is_within(values, *limits)


def _limits(kind: pa.DataType) -> tuple[int, int] | None:
    """The least and the greatest value of a time that can be shown; None of what is no time."""
    if pa.types.is_date32(kind):
        return _FIRST, _LAST
    if pa.types.is_time64(kind):
        return 0, _DAY * _UNITS[kind.unit] - 1
    if pa.types.is_timestamp(kind):
        unit = _UNITS[kind.unit]
        first = max(_FIRST * _DAY * unit, 1 - _LARGEST)
        last = min((_LAST + 1) * _DAY * unit, _LARGEST) - 1
        return first, last
    return None


def _is_within(values: pa.Array, first: int, last: int) -> bool:
    whole = pa.int32() if pa.types.is_date32(values.type) else pa.int64()
    found = pc.min_max(values.view(whole))
    least = found["min"].as_py()
    greatest = found["max"].as_py()
    return least is None or (first <= least and greatest <= last)
