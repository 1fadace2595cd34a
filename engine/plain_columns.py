"""The columns of an Arrow batch as rows of Python values, where they are of the kinds that plain rows have.

Texts, numbers, truth values and lists of {role, content} are taken out column by column, which is many times
as fast as row by row.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

_LETTERS_OF_A_BYTE = 6  # of JSON: \u0001 is the longest
_LETTERS_OF_A_NAME = 16  # beside itself: quotes, a colon, a comma, a null or a short number


def fits(batch: pa.RecordBatch, limit: int) -> bool:
    """Whether each row has at most `limit` bytes as JSON, if `values_of` has its values; False if unsure."""
    names = sum(len(name.encode()) * _LETTERS_OF_A_BYTE + _LETTERS_OF_A_NAME for name in batch.schema.names)
    if batch.nbytes * _LETTERS_OF_A_BYTE + names <= limit:
        return True
    if len(batch) < 2:
        return False
    half = len(batch) // 2
    return fits(batch.slice(0, half), limit) and fits(batch.slice(half), limit)


def values_of(batch: pa.RecordBatch) -> list[dict[str, Any]] | None:
    """The rows; None where a column is of another kind, or cannot be decoded."""
    columns: list[list[Any]] = []
    try:
        for column in batch.columns:
            values = _values(column)
            if values is None:
                return None
            columns.append(values)
    except (UnicodeDecodeError, pa.ArrowException):
        return None
    names = batch.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.Array) -> list[Any] | None:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts: list[Any] = column.to_pylist()
        return texts
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        values: list[Any] = column.to_pylist()
        return values
    if pa.types.is_null(kind):
        return [None] * len(column)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _lists_of_turns(column)
    return None


def has_nul(values: Mapping[str, Any]) -> bool:
    """Whether a text of a row of `values_of` has NUL in it."""
    for value in values.values():
        if type(value) is str and "\0" in value:
            return True
        if type(value) is list and any("\0" in turn["content"] for turn in value):
            return True
    return False


def _lists_of_turns(column: pa.Array) -> list[list[dict[str, Any]] | None] | None:
    """Lists of {role, content} and nothing else."""
    kind = column.type.value_type
    if not pa.types.is_struct(kind) or {field.name for field in kind} != {"role", "content"}:
        return None
    turns = column.flatten()
    roles, contents = turns.field("role"), turns.field("content")
    if not pa.types.is_string(roles.type) or not pa.types.is_string(contents.type):
        return None
    if turns.null_count or roles.null_count or contents.null_count:
        return None
    said: list[dict[str, Any]] = []
    for role, content in zip(roles.to_pylist(), contents.to_pylist(), strict=True):
        said.append({"role": role, "content": content})
    lists: list[list[dict[str, Any]] | None] = []
    end = 0
    for length in column.value_lengths().to_pylist():
        lists.append(None if length is None else said[end : end + length])
        end += length or 0
    assert end == len(said)
    return lists
