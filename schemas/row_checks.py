"""Checks of the settings that say how the input names its columns, turns and roles.

Each gives the rest of a sentence about what is wrong, or None (schemas/fields.py: Check).
"""

import json
import re
from typing import Any

from schemas.errors import did_you_mean

ROLES = ("system", "user", "assistant", "tool")
# How other tools call a turn whose text is the call of a tool, and a tool's result; the first of each is
# what [prompts.roles] may name.
CALL_ROLES = ("tool_call", "function_call")
RESULT_ROLES = ("tool_response", "observation")
TURN_KEYS = (
    "role",
    "content",
    "from",
    "value",
    "name",
    "tool_calls",
    "tool_call_id",
    "reasoning_content",
)
ALL_COLUMNS = "*"
# Columns of answers: several texts of theirs are several answers, and never joined to one.
_ANSWERS_NAMES = (
    "chosen rejected response responses completion completions output answers generations candidates "
    "rejected_response rejected_responses rejected_messages preferred_output non_preferred_output"
)
_ANSWERS = frozenset(_ANSWERS_NAMES.split())


def toml_key(name: str) -> str:
    """A key as TOML writes it."""
    is_bare = re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None
    return name if is_bare else toml_value(name)


def toml_value(value: object) -> str:
    """A text or a list of texts as TOML writes it; of anything else enough for a message."""
    return json.dumps(value, ensure_ascii=False, default=str)


def columns(names: dict[str, Any]) -> str | None:
    """Each value is the name of a column, or a list of names whose texts are joined."""
    for ours, theirs in names.items():
        if not _is_name(ours):
            return f"{toml_key(ours)}: expected the name of a column that the format reads"
        several = theirs if isinstance(theirs, list) else [theirs]
        if not several or not all(map(_is_name, several)):
            return (
                f"{toml_key(ours)} = {toml_value(theirs)}: expected the name of a column of the input in "
                'quotes, a path into its objects such as "question.full_text", or a list of them'
            )
        if ours in _ANSWERS and len(several) > 1:
            return (
                f"{ours} = {toml_value(theirs)}: the texts of a list are joined to one, and answers are not: "
                "name one column; several rejected answers stand in one column, rejected, that is a list"
            )
        if len(set(several)) < len(several):
            return f"{toml_key(ours)} = {toml_value(theirs)}: names a column twice"
    return None


def roles(names: dict[str, Any]) -> str | None:
    """Each value is a role that is known; the keys differ by more than their case.

    What is a call by its name stays one: as a turn of text the model would learn to say it as text."""
    known = (*ROLES, CALL_ROLES[0], RESULT_ROLES[0])
    seen: dict[str, str] = {}
    for spelling, role in names.items():
        if role not in known:
            meant = did_you_mean(str(role), known)
            return f"{toml_key(spelling)} = {toml_value(role)}; {meant}"
        if _is_call(spelling) and role != CALL_ROLES[0]:
            return (
                f"{toml_key(spelling)} = {toml_value(role)}: such a turn calls a tool, and its call would be "
                f"trained as text; say {toml_key(spelling)} = {toml_value(CALL_ROLES[0])}"
            )
        other = seen.setdefault(spelling.strip().lower(), spelling)
        if other != spelling:
            return f"names {toml_key(other)} and {toml_key(spelling)}, which differ in case alone: keep one"
    return None


def _is_call(spelling: str) -> bool:
    """Whether a role says by its name that its turn calls a tool: tool_call, ToolCalls, function-call."""
    letters = re.sub("[^a-z]", "", spelling.lower()).removesuffix("s")
    return letters in {role.replace("_", "") for role in CALL_ROLES}


def turns(names: dict[str, Any]) -> str | None:
    """Each key is one that a turn may have, each value another one, which the input has in its place."""
    taken: dict[str, str] = {}
    for ours, theirs in names.items():
        if ours not in TURN_KEYS:
            return f"has no key {toml_key(ours)}; {did_you_mean(ours, TURN_KEYS)}"
        if not _is_name(theirs):
            return f"{ours} = {toml_value(theirs)}: expected the key of a turn as the input has it, in quotes"
        other = taken.setdefault(theirs, ours)
        if other != ours:
            return f'{other} and {ours} are both "{theirs}": keep one'
    return None


def metadata(names: tuple[str, ...]) -> str | None:
    """Names of columns, or "*" alone."""
    if not all(map(_is_name, names)):
        return ': expected names of columns, or ["*"] for all that are not read'
    if ALL_COLUMNS in names and len(set(names)) > 1:
        return ': "*" keeps all that is not read; name it alone, or name each column'
    return None


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
