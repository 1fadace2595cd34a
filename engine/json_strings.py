"""Turns, lists and tools that stand as JSON in a string, as CSV and many exports have them.

- In a column that may be a text (prompt, chosen), only JSON that is turns is taken for what it is: a text
  about JSON, such as "[1, 2]", stays a text.
- A column that can be nothing but a list (messages, completions, tools) is read as any JSON list.
- What is no strict JSON (Python's quotes, NaN, an end that is cut off) stays a string, and the format refuses
  it (engine/markup.py).
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from engine.columns import Columns
from engine.row_problem import RowProblem
from engine.row_values import is_too_deep, name_twice

# Columns that are never a text.
_LISTS = frozenset(
    {
        "all_generated_responses",
        "all_rm_scores",
        "candidates",
        "chosen_messages",
        "completions",
        "conversation",
        "conversations",
        "generations",
        "messages",
        "ratings",
        "rejected_messages",
        "responses",
        "rewards",
        "scores",
        "tools",
    }
)
_BEGINS_LIKE_JSON = re.compile(r"\s*[\[{]")
_NOTHING = frozenset({"", "null"})


def unpacked(values: dict[str, Any], columns: Columns, turn_keys: Mapping[str, str]) -> dict[str, Any]:
    """The row with the JSON in its strings taken out, where the format reads a column as turns or as a list.

    `turn_keys`: our key of a turn -> the row's. A row without any is given back itself. Raises RowProblem
    for JSON in which a name stands twice."""
    turns = columns.of_turns
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(value, str):
            continue
        is_list = name in _LISTS and name in columns.reads
        is_nothing = is_list and value.strip().lower() in _NOTHING
        if is_nothing:
            changed[name] = None
        elif (is_list or name in turns) and _BEGINS_LIKE_JSON.match(value):
            found = _json_of(name, value)
            if are_turns(found, turn_keys):
                turns_found = _as_read(name, found, is_list)
                changed[name] = _in_keys(turns_found, columns.keys_read(name, found) or frozenset())
            elif is_list and isinstance(found, list):
                changed[name] = found
    return values | changed if changed else values


def _as_read(name: str, found: object, is_list: bool) -> object:
    """One turn alone is a list of one, but as a side, where formats tell by it which of them is meant."""
    if isinstance(found, dict) and (is_list or name == "prompt"):
        return [found]
    return found


def _in_keys(turns: object, keys: frozenset[str]) -> object:
    """Turns {from, value} as {role, content}, for a column of which nothing else is read."""
    if "from" in keys or not isinstance(turns, list):
        return turns
    renamed: list[dict[str, Any]] = []
    for turn in turns:
        if "role" in turn or "from" not in turn:
            return turns
        others = {key: value for key, value in turn.items() if key not in ("from", "value")}
        renamed.append({"role": turn["from"], "content": turn.get("value")} | others)
    return renamed


def _json_of(name: str, text: str) -> object:
    """The value of strict JSON; None where a text is none.

    Raises RowProblem where a name stands twice in one object of it."""
    if is_too_deep(text):
        return None
    try:
        value: object = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    twice = name_twice(text, value)
    if twice is not None:
        sentence = f'{name} holds JSON in which "{twice}" stands twice in one object; keep one of them'
        raise RowProblem("duplicate_key", sentence)
    return value


def are_turns(value: object, turn_keys: Mapping[str, str]) -> bool:
    """Whether a JSON value is a turn, or a list of nothing else."""
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(_is_turn(item, turn_keys) for item in items)


def _is_turn(item: object, turn_keys: Mapping[str, str]) -> bool:
    """Whether an object is {role, content} or {from, value}, under the row's names for these keys."""
    if not isinstance(item, dict):
        return False
    for who, what in (
        ("role", "content"),
        ("from", "value"),
        ("role", "tool_calls"),
        ("role", "function_call"),
    ):
        who_is_there = isinstance(_under(item, who, turn_keys), str)
        if who_is_there and _under(item, what, turn_keys) is not None:
            return True
    return False


def _under(item: Mapping[str, Any], key: str, turn_keys: Mapping[str, str]) -> object:
    """The value of a key, by our name or by the row's."""
    return item.get(turn_keys.get(key, key), item.get(key))
