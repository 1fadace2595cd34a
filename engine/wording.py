"""What a value of a row is, in words, for the sentences by which a format's SQL refuses it.

They are functions of DuckDB that the macros call for refused rows only, since SQL that says the same takes
longer to plan than to run; beside them stands the one that reads tool calls and thoughts
(engine/turns.py). A value comes as JSON text, or as None where it is missing.
"""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import duckdb

from engine.column_names import THOUGHTS, are_turns, could_be_prompt, is_metadata, is_turn, words_of
from engine.turns import turn_in_full
from schemas.row_checks import CALL_ROLES, ROLES, toml_key, toml_value

_KEYS_SHOWN = 6
_LIKE_TURNS = re.compile(r"""\s*\[?\s*\{\s*['"]""")
# What other spellings of a role have in them.
_SPELLINGS = {
    "system": ("system", "developer", "instruction"),
    "tool": ("tool", "function", "observation", "ipython", "environment"),
    "assistant": ("assistant", "agent", "bot", "model", "llm", "gpt", "ai", "operator", "expert", "doctor"),
}
# Spellings of a turn that calls a tool: my_call, toolCalls, tool_use.
_CALL = re.compile(r"calls?$|(?:tool|function).*(?:use|invocation|request)$")
# Keys of a turn that say who speaks.
_SPEAKERS = frozenset({"from", "speaker", "author", "sender", "user", "who", "name", "participant"})
_REFERENCES = ("reference", "reference_answer", "ground_truth", "solution")
_ITEM_KINDS = {str: "string", bool: "boolean", int: "number", float: "number", dict: "object", list: "list"}


def add_functions(con: duckdb.DuckDBPyConnection, theirs: Mapping[str, Any] | None = None) -> None:
    """Make the functions below known to the SQL of a connection.

    `theirs`: what the input calls columns, by our names of them (prompts.columns)."""

    def turns_in_words(text: str | None, name: str, key: str, form: str) -> str:
        own = (theirs or {}).get(name, name)
        return turns_problem_in_words(text, name, key, form, own if isinstance(own, str) else name)

    functions = (
        (kind_in_words, 1),
        (turns_in_words, 4),
        (references_in_words, 1),
        (no_prompt_in_words, 1),
        (bad_role_in_words, 1),
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


def turns_problem_in_words(text: str | None, name: str, key: str, form: str, own_name: str) -> str:
    """'code: sentence' of why a column is no list of turns, or which of its turns is none.

    `key`: where a turn has its text; `form`: what a turn is, for people; `own_name`: the input's of the
    column."""
    expected = f"expected a string or a list of turns {{{form}}}"
    value = json.loads(text or "null")
    if isinstance(value, str) and _LIKE_TURNS.match(value):
        return f"turns_as_text: {name} holds {turns_as_text(value)}"
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        for turn in value:
            problem = _turn_problem(turn, name, key, form)
            if problem and key == "content" and is_turn(turn) and "role" not in turn:
                return _from_and_value(name, own_name)
            if problem:
                return problem
    return f"missing_or_mistyped: {name} is {kind_in_words(text)}; {expected}"


def _from_and_value(name: str, own_name: str) -> str:
    """'code: sentence' of turns {from, value} where a format reads {role, content}."""
    setting = '[prompts.turns] role = "from", content = "value"'
    if name in ("prompt", "messages"):
        as_conversations = columns_setting({"conversations": own_name})
        setting = f"{setting}; or, where chosen and rejected are texts or lone turns: {as_conversations}"
    return (
        f"missing_or_mistyped: {name} has turns in ShareGPT's form; a turn is {{role, content}}, "
        f"this one is an object {{from, value}}: {setting}"
    )


def turns_as_text(text: str) -> str:
    """What is wrong with turns that stand as text and are no JSON: the end of "chosen holds …"."""
    try:
        json.loads(text)
    except ValueError as error:
        if "'" in text[: text.find(":")]:
            return (
                "turns as Python writes them, as text; ast.literal_eval makes a list of them, which "
                "json.dumps writes as JSON"
            )
        return f"turns as text, and their JSON is broken: {error}; write them again"
    return "turns as text; write them as a list of {role, content}"


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


def no_prompt_in_words(found: str) -> str:
    """'code: sentence' of why nobody guesses a prompt: these columns could be it, the likeliest first.

    `found`: JSON {names, row}, or of the names alone. To leave one out is offered only where its name says
    that it is no prompt: whoever leaves out the prompt itself trains on answers cut in two."""
    given = json.loads(found)
    row: dict[str, Any] = given["row"] if isinstance(given, dict) else {}
    could_be: list[str] = given["names"] if isinstance(given, dict) else given
    could_be = sorted(could_be, key=lambda name: _likelihood(name, row.get(name)), reverse=True)
    tell_about_the_row = [name for name in could_be if is_metadata(name, row.get(name))]
    others = [name for name in could_be if name not in tell_about_the_row]
    candidates = others or could_be
    first = candidates[0]
    ours = "conversations" if _are_from_and_value(row.get(first)) else "prompt"
    sentence = (
        f"no_prompt: the row has no column prompt, and the prompt could be in {', '.join(candidates)}; "
        f"rename the column {first} to {ours}: {columns_setting({ours: first})}"
    )
    if others:
        return sentence
    listed = ", ".join(json.dumps(name, ensure_ascii=False) for name in tell_about_the_row)
    return f"{sentence}; or if none of them is the prompt, leave them out: prompts.ignore = [{listed}]"


def _likelihood(name: str, value: object) -> tuple[bool, bool, int]:
    """How likely a column is the prompt: a dialogue before texts, and of these the longest."""
    tells_a_kind = is_metadata(name, value) or words_of(name)[-1:] == ("task",)
    return are_turns(value), not tells_a_kind, _longest_text(name, value)


def _longest_text(name: str, value: object) -> int:
    """How long the longest text in a value is that could be a prompt."""
    if isinstance(value, str):
        return len(value.strip()) if could_be_prompt(name, value) else 0
    inner: list[tuple[str, object]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    if isinstance(value, list):
        inner = [(name, item) for item in value]
    return max([_longest_text(key, item) for key, item in inner], default=0)


def _are_from_and_value(value: object) -> bool:
    """Whether a dialogue's turns are {from, value}."""
    if not isinstance(value, list) or not are_turns(value):
        return False
    return isinstance(value[0], dict) and "from" in value[0] and "role" not in value[0]


def columns_setting(names: Mapping[str, str | list[str]]) -> str:
    """The setting that gives columns of the input the names of the format's, ours -> theirs."""
    entries: list[str] = []
    options: list[str] = []
    for ours, theirs in names.items():
        value = toml_value(theirs)
        entries.append(f"{toml_key(ours)} = {value}")
        is_plain = isinstance(theirs, str) and toml_key(theirs) == theirs and not _is_toml(theirs)
        shown = theirs if is_plain else value
        options.append(f"--set {shlex.quote(f'prompts.columns.{ours}={shown}')}")
    return f"[prompts.columns] {', '.join(entries)} ({' '.join(options)})"


def _is_toml(text: str) -> bool:
    """Whether a text on the command line would be read as a value of another type."""
    return text[:1].isdigit() or text[:1] in "+-" or text in ("true", "false", "inf", "nan")


def role_in_words(role: str) -> str:
    """Why a role is refused, and the setting that says which one it is."""
    if role.strip().lower() in CALL_ROLES:
        return (
            f"a turn's role is {role}, the call of a tool, and the format reads no calls there; "
            "write it as the assistant's turn with tool_calls"
        )
    return (
        f"a turn's role must be one of {', '.join(ROLES)}, not {role}; say which one it is: "
        f"[prompts.roles] {toml_key(role)} = {toml_value(_likely_role(role))}"
    )


def bad_role_in_words(role: str | None) -> str | None:
    """'code: sentence' of why a role is none that templates know; None where it is one or missing."""
    if role is None or role in ROLES:
        return None
    return f"bad_role: {role_in_words(role)}"


def _likely_role(role: str) -> str:
    """The role that a spelling most likely stands for; the user's, where nothing is known of it."""
    words = re.findall(r"[a-z]+", role.lower())
    if _CALL.search(role.strip().lower()):
        return CALL_ROLES[0]
    for known, spellings in _SPELLINGS.items():
        if any(word.endswith(spellings) for word in words):
            return known
    return "user"


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
            f"a turn is {{{form}}}, this one is {_kind(turn)}{_turn_setting(turn, form)}"
        )
    if key == "content" and not isinstance(turn.get("role"), str):
        kind = _kind(turn["role"]) if "role" in turn else "missing"
        return f"bad_role: {name} has a turn whose role is {kind}; a turn is {{{form}}}"
    return None


def _turn_setting(turn: dict[str, Any], form: str) -> str:
    """The setting that gives the two keys of a turn their names, where its own may be told apart."""
    texts = [key for key, value in turn.items() if isinstance(value, str)]
    if len(texts) != 2 or set(texts) & set(form.split(", ")):
        return ""
    who, what = texts
    is_longer = len(turn[who]) > len(turn[what])
    if what in _SPEAKERS or (who not in _SPEAKERS and is_longer):
        who, what = what, who
    role, content = form.split(", ")
    return f"; [prompts.turns] {role} = {toml_value(who)}, {content} = {toml_value(what)}"


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
