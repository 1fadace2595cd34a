"""Ways to the parts of a row: a column, or a key in its objects written `question.full_text`."""

from collections.abc import Iterable, Mapping
from typing import Any

Way = tuple[str, ...]  # a column, and the keys that lead into it


def way_to(values: Mapping[str, Any], name: str) -> Way | None:
    """The way to a column, or to a part of an object by a path with dots; None where the row has none."""
    if name in values:
        return (name,)
    # A column's own name may have dots in it: the longest one that there is.
    column, dot, key = name.rpartition(".")
    keys: Way = ()
    while dot:
        keys = (key, *keys)
        if column in values:
            return (column, *keys) if _leads(values[column], keys) else None
        column, dot, key = column.rpartition(".")
    return None


def _leads(value: object, keys: Way) -> bool:
    """Whether these keys lead through a value's objects."""
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True


def at(values: Mapping[str, Any], way: Way) -> Any:
    """The value to which a way leads."""
    found: Any = values
    for key in way:
        found = found[key]
    return found


def without(row: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The row without some columns, or keys of their objects written `chosen.name`."""
    kept = row
    for name in names:
        if name in kept:
            kept = {column: value for column, value in kept.items() if column != name}
            continue
        column, _, key = name.partition(".")
        if key and column in kept:
            kept = kept | {column: _without_key(kept[column], key)}
    return kept


def _without_key(value: object, key: str) -> object:
    if isinstance(value, list):
        return [_without_key(item, key) for item in value]
    if isinstance(value, dict):
        return {name: inner for name, inner in value.items() if name != key}
    return value


def without_way(values: dict[str, Any], way: Way) -> dict[str, Any]:
    """The row, or an object in it, without what a way leads to. What is gone already stays gone."""
    first, *more = way
    if first not in values:
        return values
    if not more:
        return {name: value for name, value in values.items() if name != first}
    inner = values[first]
    if not isinstance(inner, dict):
        return values
    return values | {first: without_way(inner, tuple(more))}
