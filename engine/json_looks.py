"""What JSON looks like that is not one object a line: an object of rows or of columns, indented objects.

Only a file's beginning is looked at, so an object may be cut off.
"""

import json
import re
from typing import Any

_BY_LINES = ".to_json('rows.jsonl', orient='records', lines=True)"
_ON_ONE_LINE = "write each object on one line: jq -c . FILE > rows.jsonl"
_KEY_OF_ROWS = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*\[\s*\{')
_TURNS = frozenset({"role", "content", "from", "value"})


def objects_look(text: str, is_whole: bool) -> str | None:
    """What text looks like that begins with an object, and what to do; None for anything else."""
    if not text.startswith("{"):
        return None
    value, rest = _first_object(text)
    if value is not None and rest.startswith("{"):
        first = text[: len(text) - len(rest)]
        if "\n" in first.strip():
            return f"it looks like JSON objects over several lines, one after another; {_ON_ONE_LINE}"
        return None
    if value is None:
        return _cut_off_look(text)
    return _look_of_one(value) or _indented(text, is_whole)


def _first_object(text: str) -> tuple[Any, str]:
    """The object that a text begins with, None where it is cut off or no JSON; and the text after it."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, ""
    return value, text[end:].lstrip()


def _look_of_one(value: dict[str, Any]) -> str | None:
    """What a file looks like that is one whole object."""
    for key, inner in value.items():
        if _is_list_of_rows(inner):
            return _holder(key)
    kinds = {type(inner) for inner in value.values()}
    if {"columns", "data"} <= value.keys():
        return _object_of("columns and data", ", orient='split'")
    if _is_numbered(value) and kinds == {dict}:
        return _object_of("rows by their number", ", orient='index'")
    if kinds == {dict} and all(map(_is_numbered, value.values())):
        return _columns(", ".join(list(value)[:8]))
    if kinds == {list} and _are_columns(list(value.values())):
        return _columns(", ".join(list(value)[:8]))
    return None


def _are_columns(lists: list[list[Any]]) -> bool:
    """Whether lists are as long as each other and hold no objects, such as a dialogue's turns."""
    lengths = set(map(len, lists))
    return len(lengths) == 1 and not any(isinstance(inner[0], dict) for inner in lists if inner)


def _is_list_of_rows(value: object) -> bool:
    """Whether a value is a list of objects that are no turns of a dialogue."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return not value[0].keys() <= _TURNS


def _is_numbered(value: dict[str, Any]) -> bool:
    """Whether an object's keys are 0, 1, 2 …, as pandas writes an index."""
    return bool(value) and all(key.isdigit() for key in value)


def _holder(key: str) -> str:
    how = f"jq -c '.[\"{key}\"][]' FILE > rows.jsonl"
    return f"it looks like one JSON object that holds the rows under '{key}'; write them out: {how}"


def _columns(names: str) -> str:
    return _object_of(f"columns ({names})", "")


def _object_of(what: str, option: str) -> str:
    how = f"pandas.read_json('FILE'{option}){_BY_LINES}"
    return f"it looks like one JSON object of {what}; write its rows as JSON Lines: {how}"


def _cut_off_look(text: str) -> str | None:
    """What a text looks like whose first object does not end within what was read, or is no JSON."""
    if re.match(r'\{\s*"[^"]*"\s*:\s*\{\s*"[0-9]+"\s*:\s*\{', text) is None:
        by_columns = re.match(r'\{\s*"([^"]*)"\s*:\s*\{\s*"[0-9]+"\s*:', text)
        if by_columns:
            return _columns(f"{by_columns[1]} …")
    of_rows = _KEY_OF_ROWS.search(text)
    first_line = text.partition("\n")[0]
    if of_rows and _is_open_at(text, of_rows.start()):
        return _holder(of_rows[1])
    if re.fullmatch(r'\{\s*("[^"]*"\s*:.*)?', first_line) and not _is_json(first_line):
        return f"it looks like a JSON object over several lines; {_ON_ONE_LINE}"
    return None


def _is_open_at(text: str, place: int) -> bool:
    """Whether a place of the text lies in the outermost object itself."""
    without_strings = re.sub(r'"(?:[^"\\]|\\.)*"', "", text[:place])
    opened = len(re.findall(r"[\[{]", without_strings))
    closed = len(re.findall(r"[\]}]", without_strings))
    return opened - closed == 1


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _indented(text: str, is_whole: bool) -> str | None:
    """One object over several lines."""
    if "\n" in text.strip() and is_whole and not _is_json(text.partition("\n")[0]):
        return f"it looks like one JSON object over several lines; {_ON_ONE_LINE}"
    return None
