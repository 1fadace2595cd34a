"""The values of a row's JSON: how deep they lie, names that stand twice, numbers that are none.

What is wrong with the text as such is found in engine/raw.py; here is what only a format's columns can judge.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine.column_names import is_finite
from engine.columns import Columns

DEEPEST = 100
_END_OF_NAME = re.compile(r'(?<!\\)"\s*:')


def is_too_deep(text: str) -> bool:
    """Whether lists and objects lie in each other more than DEEPEST deep; text that is valid JSON."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    depth = 0
    is_in_text = False
    for mark in re.findall(r'\\.|["\[\]{}]', text):
        if mark == '"':
            is_in_text = not is_in_text
        elif is_in_text:
            continue
        elif mark in "[{":
            depth += 1
            if depth > DEEPEST:
                return True
        elif mark in "]}":
            depth -= 1
    return False


def name_twice(text: str, values: object) -> str | None:
    """A name that stands twice in one object of a JSON text: readers differ on which of its values counts."""
    if len(_END_OF_NAME.findall(text)) <= _count_names(values):
        return None
    twice: list[str] = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for name, value in pairs:
            if name in seen:
                twice.append(name)
            seen[name] = value
        return seen

    json.loads(text, object_pairs_hook=look)
    return twice[0] if twice else None


def _count_names(value: object) -> int:
    if isinstance(value, Mapping):
        return len(value) + sum(map(_count_names, value.values()))
    if isinstance(value, list):
        return sum(map(_count_names, value))
    return 0


def needed_numbers(
    values: Mapping[str, Any], not_finite: Iterable[str], columns: Columns, optional: Iterable[str]
) -> list[str]:
    """Where NaN or Infinity stands in what a format needs: `chosen`, or `completions.score` for a key.

    `not_finite` are the columns that have such a number; in an `optional` one it counts as null."""
    needed: list[str] = []
    for name in not_finite:
        keys = columns.keys_read(name, values.get(name))
        if name not in values or keys is None or name in columns.optional or name in optional:
            continue
        if keys:
            needed += _keys_of_numbers(name, values[name], keys)
        else:
            needed.append(name)
    return needed


def _keys_of_numbers(name: str, value: object, keys: frozenset[str]) -> list[str]:
    """The keys of a column's objects that are read and whose value is not finite, each as `name.key`."""
    items = value if isinstance(value, list) else [value]
    found: dict[str, None] = {}
    for item in items:
        if not isinstance(item, dict):
            if not is_finite(item):
                found[name] = None
            continue
        for key, inner in item.items():
            if key in keys and not is_finite(inner):
                found[f"{name}.{key}"] = None
    return list(found)


def finite_text(values: Mapping[str, Any]) -> str | None:
    """A row as JSON with null for each number that is none; None where it has more that no JSON has."""
    text = json.dumps(_finite(values), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not is_finite(value):
        return None
    return value
