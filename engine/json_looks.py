"""What JSON looks like that is not one object a line: an object of rows or of columns, indented objects.

Only a file's beginning is looked at, so an object may be cut off.
"""

import json
import re
from typing import Any

from engine.column_names import is_turn

_BY_LINES = ".to_json('rows.jsonl', orient='records', lines=True)"
_ON_ONE_LINE = "write each object on one line: jq -c . FILE > rows.jsonl"
_TURNS = frozenset({"role", "content", "from", "value"})
# Columns whose lists are of turns or answers: an object that has them is a row.
_COLUMNS_NAMES = (
    "prompt messages conversations chosen rejected responses response completions completion "
    "generations answers candidates instruction question query input output tools history "
    "rejected_response rejected_responses rejected_messages preferred_output non_preferred_output"
)
_COLUMNS = frozenset(_COLUMNS_NAMES.split())
_STRING = r'"(?:[^"\\]|\\.)*"'
_TOKENS = re.compile(rf"{_STRING}|[{{}}\[\]]")
_BARE_WORDS = re.compile(rf"{_STRING}|(-?\b(?:nan|inf|None|True|False|undefined)\b)")
_MOST_LEVELS = 3  # of objects, around the rows


def objects_look(text: str, is_whole: bool) -> str | None:
    """What text looks like that begins with an object, and what to do; None for anything else."""
    if not text.startswith("{"):
        return None
    if "\r" in text and "\n" not in text.strip():
        return "its lines end in \\r alone, and rows end in \\n: tr '\\r' '\\n' < FILE > rows.jsonl"
    value, rest = _first_object(text)
    if value is None:
        return _cut_off_look(text)
    if rest.lstrip().startswith("{"):
        return _one_after_another(text[: len(text) - len(rest)], rest)
    if re.match(r"\s*,\s*\{", rest):
        return "a comma stands between its objects; take it away: sed 's/,[[:space:]]*$//' FILE > rows.jsonl"
    return _look_of_one(value, text) or _indented(text, is_whole)


def _one_after_another(first: str, rest: str) -> str | None:
    """Objects over several lines, or on one, of which `first` is the first."""
    if "\n" in first.strip():
        return f"it looks like JSON objects over several lines, one after another; {_ON_ONE_LINE}"
    if "\n" not in rest.partition("{")[0]:
        return f"it looks like JSON objects on one line, one after another; {_ON_ONE_LINE}"
    return None


def strings_look(text: str, suffix: str) -> str | None:
    """Lines that are JSON strings."""
    value = _value(text.partition("\n")[0])
    if not isinstance(value, str):
        return None
    if isinstance(_value(value), dict):
        return "its lines are JSON inside JSON strings; unpack them: jq -c fromjson FILE > rows.jsonl"
    return f"its lines are strings; {_prompts_of('.')}"


def lists_look(text: str, suffix: str) -> str | None:
    """A list of strings or of lists, lines that are lists, a list that breaks off."""
    if not text.startswith("["):
        return None
    value, rest = _first_value(text)
    if isinstance(value, list) and rest.lstrip().startswith("["):
        how = "jq -c '{prompt: .[0], chosen: .[1], rejected: .[2]}' FILE > rows.jsonl"
        return f"its lines are lists, and a row is an object with names; name what each holds, such as: {how}"
    if re.match(rf"\[\s*{_STRING}\s*[,\]]", text):
        return f"it looks like a JSON array of strings; {_prompts_of('.[]')}"
    if re.match(r"\[\s*\[", text):
        how = "jq -c '.[] | {prompt: .[0], chosen: .[1], rejected: .[2]}' FILE > rows.jsonl"
        return f"it looks like a JSON array of lists; name what each holds, such as: {how}"
    return None


def _prompts_of(path: str) -> str:
    how = f"jq -c '{path} | {{prompt: .}}' FILE > rows.jsonl"
    return f"where each is a prompt: {how}"


def _first_object(text: str) -> tuple[Any, str]:
    """The object that a text begins with, None where it is cut off or no JSON; and the text after it."""
    value, rest = _first_value(text)
    return (value, rest) if isinstance(value, dict) else (None, "")


def _first_value(text: str) -> tuple[Any, str]:
    """The value that a text begins with, None where it is cut off or no JSON; and the text after it."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None, ""
    return value, text[end:]


def _value(text: str) -> Any:
    """What a whole text says as JSON, None where it is none."""
    value, rest = _first_value(text.strip())
    return None if rest else value


def _look_of_one(value: dict[str, Any], text: str) -> str | None:
    """What a file looks like that is one whole object."""
    holders = _holders(value)
    if _is_of_datasets_server(value.get("rows")):
        return _holders_look([("rows",)], of_server=True)
    if len(_COLUMNS & value.keys()) > 1:
        holders = [keys for keys in holders if keys[0] not in _COLUMNS]
    if holders:
        return _holders_look(holders)
    kinds = {type(inner) for inner in value.values()}
    if {"columns", "data"} <= value.keys():
        return _object_of("columns and data", ", orient='split'")
    if _is_numbered(value) and kinds == {dict}:
        return _object_of("rows by their number", ", orient='index'")
    if kinds == {dict} and all(map(_is_numbered, value.values())):
        return _columns(", ".join(list(value)[:8]))
    if kinds == {list} and _are_columns(list(value.values())):
        return _columns(", ".join(list(value)[:8]))
    return _by_id(text)


def _holders(value: dict[str, Any], levels: int = 1) -> list[tuple[str, ...]]:
    """The keys that lead to the lists of rows in an object: the outermost ones."""
    found: list[tuple[str, ...]] = [(key,) for key, inner in value.items() if _is_list_of_rows(inner)]
    if found or levels == _MOST_LEVELS:
        return found
    for key, inner in value.items():
        if isinstance(inner, dict):
            found += [(key, *keys) for keys in _holders(inner, levels + 1)]
    return found


def _is_of_datasets_server(rows: object) -> bool:
    """Whether a list holds rows as the datasets server gives them: {row_idx, row}."""
    return isinstance(rows, list) and bool(rows) and {"row_idx", "row"} <= rows[0].keys()


def _by_id(text: str) -> str | None:
    """An object of rows, each under a key of its own: the first two have the same columns."""
    columns: list[set[str]] = []
    rest = text
    for opening in ("{", ","):
        key = re.match(rf"\s*\{opening}\s*{_STRING}\s*:\s*", rest)
        row, rest = _first_object(rest[key.end() :]) if key else (None, "")
        columns.append(set(row or ()))
    first, second = columns
    if first and first == second and not first <= _TURNS:
        how = "jq -c '.[]' FILE > rows.jsonl"
        return f"it looks like one JSON object of rows by their ids; write them out: {how}"
    return None


def _are_columns(lists: list[list[Any]]) -> bool:
    """Whether lists are as long as each other and hold no objects, such as a dialogue's turns."""
    lengths = set(map(len, lists))
    return len(lengths) == 1 and not any(isinstance(inner[0], dict) for inner in lists if inner)


def _is_list_of_rows(value: object) -> bool:
    """Whether a value is a list of objects that are no turns of a dialogue."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    return not is_turn(value[0]) and not value[0].keys() <= _TURNS


def _is_numbered(value: dict[str, Any]) -> bool:
    """Whether an object's keys are 0, 1, 2 …, as pandas writes an index."""
    return bool(value) and all(key.isdigit() for key in value)


def _holders_look(holders: list[tuple[str, ...]], of_server: bool = False) -> str:
    """One object that holds rows under some keys, such as splits; each list is to be written out."""
    names = " and ".join([f"'{'.'.join(keys)}'" for keys in holders])
    commands: list[str] = []
    for keys in holders:
        path = "".join(map(_step, keys)) + ("[].row" if of_server else "[]")
        target = "rows.jsonl" if len(holders) == 1 else f"{keys[-1]}.jsonl"
        commands.append(f"jq -c '{path}' FILE > {target}")
    how = "; ".join(commands)
    return f"it looks like one JSON object that holds the rows under {names}; write them out: {how}"


def _step(key: str) -> str:
    """A key as jq writes it."""
    return f".{key}" if re.fullmatch(r"[A-Za-z_]\w*", key) else f".[{json.dumps(key)}]"


def _columns(names: str) -> str:
    return _object_of(f"columns ({names})", "")


def _object_of(what: str, option: str) -> str:
    how = f"pandas.read_json('FILE'{option}){_BY_LINES}"
    return f"it looks like one JSON object of {what}; write its rows as JSON Lines: {how}"


def _cut_off_look(text: str) -> str | None:
    """What a text looks like whose first object does not end within what was read, or is no JSON."""
    first_line = text.partition("\n")[0]
    if not _is_open(first_line):
        return _bare_words(first_line)
    if re.match(r'\{\s*"[^"]*"\s*:\s*\{\s*"[0-9]+"\s*:\s*\{', text) is None:
        by_columns = re.match(r'\{\s*"([^"]*)"\s*:\s*\{\s*"[0-9]+"\s*:', text)
        if by_columns:
            return _columns(f"{by_columns[1]} …")
    if re.match(r'\{\s*"features"', text) and '"row_idx"' in text:
        return _holders_look([("rows",)], of_server=True)
    keys = _first_holder(text)
    if keys:
        return _holders_look([keys])
    by_id = _by_id(text)
    if by_id:
        return by_id
    if re.fullmatch(r'\{\s*("[^"]*"\s*:.*)?', first_line) and "\n" in text.strip():
        return f"it looks like a JSON object over several lines; {_ON_ONE_LINE}"
    return None


def _bare_words(line: str) -> str | None:
    """An object on a line that would be JSON, were it not for nan, None …"""
    words = dict.fromkeys(filter(None, [match[1] for match in _BARE_WORDS.finditer(line)]))
    as_null = _BARE_WORDS.sub(lambda match: "null" if match[1] else match[0], line)
    if not words or not _is_json(as_null):
        return None
    listed = ", ".join(words)
    return f"it says {listed}, which is no JSON; write null, true or false in its place, by json.dumps"


def _is_open(text: str) -> bool:
    """Whether more brackets are opened in a text than closed."""
    marks = [mark for mark in _TOKENS.findall(text) if mark[0] != '"']
    opened = sum(mark in "{[" for mark in marks)
    return 2 * opened > len(marks)


def _first_holder(text: str) -> tuple[str, ...]:
    """The keys that lead to the first list of objects in a text, none where there is no such list."""
    keys: list[str] = []
    lists = 0  # how many are open
    last = ""
    for token in _TOKENS.finditer(text):
        mark = token[0]
        if mark == "{":
            keys.append(last)
        elif mark == "}":
            keys[-1:] = []
        elif mark == "]":
            lists -= 1
        elif mark == "[":
            row = re.match(rf"\s*\{{\s*({_STRING})", text[token.end() : token.end() + 1000])
            is_of_rows = row is not None and row[1][1:-1] not in _TURNS
            if len(keys) == 1 and last in _COLUMNS:
                is_of_rows = False
            if is_of_rows and not lists and len(keys) <= _MOST_LEVELS:
                return (*keys[1:], last)
            lists += 1
        else:
            last = mark[1:-1]
    return ()


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
