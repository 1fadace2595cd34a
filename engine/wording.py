"""What a value of a row is, in words, for the sentences by which a format's SQL refuses it.

They are functions of DuckDB that the macros call for refused rows only, since SQL that says the same takes
longer to plan than to run; beside them stands the one that reads tool calls and thoughts
(engine/turns.py). A value comes as JSON text, or as None where it is missing.
"""

import json
import re
from typing import Any

import duckdb

from engine.column_names import THOUGHTS, is_metadata
from engine.turns import turn_in_full

_KEYS_SHOWN = 6
_REFERENCES = ("reference", "reference_answer", "ground_truth", "solution")
_ITEM_KINDS = {str: "string", bool: "boolean", int: "number", float: "number", dict: "object", list: "list"}


def add_functions(con: duckdb.DuckDBPyConnection) -> None:
    """Make the functions below known to the SQL of a connection."""
    functions = (
        (kind_in_words, 1),
        (turns_in_words, 4),
        (references_in_words, 1),
        (no_prompt_in_words, 1),
        (turn_in_full, 1),
    )
    for function, count in functions:
        con.create_function(
            function.__name__, function, ["VARCHAR"] * count, "VARCHAR", null_handling="special"
        )


def kind_in_words(text: str | None) -> str:
    """What a value is: "a list of 3 strings", "the number 7", "an object {from, value}", "missing"."""
    if text is None:
        return "missing"
    return _kind(json.loads(text))


def turns_in_words(text: str | None, name: str, key: str, form: str) -> str:
    """'code: sentence' of why a column is no list of turns, or which of its turns is none.

    `key`: where a turn has its text; `form`: what a turn is, for people."""
    expected = f"expected a string or a list of turns {{{form}}}"
    value = json.loads(text or "null")
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        for turn in value:
            problem = _turn_problem(turn, name, key, form)
            if problem:
                return problem
    return f"missing_or_mistyped: {name} is {kind_in_words(text)}; {expected}"


def references_in_words(row: str) -> str | None:
    """'code: sentence' of why a row has no one right answer for the judge, if it names any."""
    values = json.loads(row)
    found: dict[str, str] = {}
    for name in _REFERENCES:
        value = values.get(name)
        if value is not None and not isinstance(value, str):
            return (
                f"missing_or_mistyped: {name} is {_kind(value)}; expected a string; "
                f'where it is no right answer for the judge: prompts.ignore = ["{name}"]'
            )
        if value:
            found[name] = value
    if len(set(found.values())) > 1:
        names = " and ".join(found)
        *_, last = found
        return f'two_references: {names} say different things; keep one: prompts.ignore = ["{last}"]'
    return None


def no_prompt_in_words(names: str) -> str:
    """'code: sentence' of why nobody guesses a prompt: these columns could be it.

    To leave one out is offered only where its name says that it is no prompt: whoever leaves out the prompt
    itself trains on answers cut in two."""
    could_be = json.loads(names)
    tell_about_the_row = [name for name in could_be if is_metadata(name, "")]
    others = [name for name in could_be if name not in tell_about_the_row]
    candidates = others or could_be
    first = candidates[0]
    sentence = (
        f"no_prompt: the row has no column prompt, and the prompt could be in {', '.join(candidates)}; "
        f"rename the column {first} to prompt: {_rename(first)}"
    )
    if others:
        return sentence
    listed = ", ".join(json.dumps(name, ensure_ascii=False) for name in tell_about_the_row)
    return f"{sentence}; or if none of them is the prompt, leave them out: prompts.ignore = [{listed}]"


def _rename(name: str) -> str:
    """The command that makes a column the prompt."""
    path = f".{name}" if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else _in_brackets(name)
    return f"jq -c '.prompt={path}|del({path})' FILE > rows.jsonl"


def _in_brackets(name: str) -> str:
    """A column for jq, whatever its name; a shell's quotation mark is written by its number."""
    quoted = json.dumps(name, ensure_ascii=False).replace("'", "\\u0027")
    return f".[{quoted}]"


def _turn_problem(turn: dict[str, Any], name: str, key: str, form: str) -> str | None:
    """Why an object is no turn, if it is none."""
    content = turn.get(key)
    if content in (None, []) and any(turn.get(name) for name in ("tool_calls", *THOUGHTS)):
        content = ""
    if isinstance(content, list) and content:
        for part in content:
            is_text = (
                isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
            )
            if not is_text:
                kind = _part_kind(part)
                return f"content_part: {name} has a turn with a part of type {kind}; only text is read"
    elif not isinstance(content, str):
        kind = _kind(content) if key in turn else "missing"
        return (
            f"missing_or_mistyped: {name} has a turn whose {key} is {kind}; "
            f"a turn is {{{form}}}, this one is {_kind(turn)}"
        )
    if key == "content" and not isinstance(turn.get("role"), str):
        kind = _kind(turn["role"]) if "role" in turn else "missing"
        return f"bad_role: {name} has a turn whose role is {kind}; a turn is {{{form}}}"
    return None


def _part_kind(part: object) -> str:
    if isinstance(part, dict) and isinstance(part.get("type"), str):
        return str(part["type"])
    return _kind(part)


def _kind(value: object) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        more = " …" if len(value) > _KEYS_SHOWN else ""
        return f"an object {{{', '.join(list(value)[:_KEYS_SHOWN])}{more}}}"
    if isinstance(value, list):
        return _list_kind(value)
    return f"the number {value}"


def _list_kind(values: list[object]) -> str:
    if not values:
        return "an empty list"
    kinds = {_ITEM_KINDS.get(type(value), "null") for value in values}
    if len(kinds) > 1:
        return f"a list of {len(values)} values of several kinds"
    plural = "" if len(values) == 1 else "s"
    return f"a list of {len(values)} {kinds.pop()}{plural}"
