"""What the readers of plain rows share: what such a row is, and which texts and turns it may have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from engine.markup import markup_of_answer, markup_of_prompt

# What a text begins or ends with that may be markup or JSON (engine/markup.py), white space aside. All other
# letters are none, in any case: tests/engine/test_plain.py goes through all of Unicode.
BEGINNINGS = frozenset("<#aAhHuUbB")
ENDINGS = frozenset(">]:eEnNtT")
_JSON = frozenset("[{")
_ROLES = frozenset({"user", "assistant", "system"})


class PlainRow(NamedTuple):
    """A prompt's turns, [role, content] each, and the texts of its responses with their scores."""

    turns: list[list[str]]
    responses: list[list[Any]]


@dataclass(frozen=True)
class PlainFormat:
    """A reader of a format's plain rows.

    `sql_digest`: of the SQL that it reads as; `names`: the columns that it reads; `not_beside`: columns that
    the SQL looks at beside those that it says it reads; `read(values)`: the row, or None."""

    sql_digest: str
    names: frozenset[str]
    read: Callable[[Mapping[str, Any]], PlainRow | None]
    not_beside: frozenset[str] = frozenset()


def turns_of(value: object) -> list[list[str]] | None:
    """A list of turns as [role, content] each; None where it has anything else in it."""
    if type(value) is not list or not value:
        return None
    turns: list[list[str]] = []
    for turn in value:
        if type(turn) is not dict or len(turn) != 2 or "role" not in turn or "content" not in turn:
            return None
        role = turn["role"]
        content = turn["content"]
        if type(content) is not str or type(role) is not str or role not in _ROLES:
            return None
        turns.append([role, content])
    return turns


def is_prompt(turns: list[list[str]]) -> bool:
    """Whether turns are a prompt that no check refuses and nothing is left out of."""
    for place, (role, content) in enumerate(turns):
        beginning = content.lstrip()[:1]
        if beginning in _JSON:
            return False
        if role == "system" and (place or not beginning):
            return False
    role, content = turns[-1]
    return role == "user" and _is_clean(content, markup_of_prompt)


def are_answers(prompt: str, first: str, second: str) -> bool:
    """Whether two responses to a prompt are such that no check refuses them."""
    if first == second or not _is_clean(first, markup_of_answer) or not _is_clean(second, markup_of_answer):
        return False
    asked = prompt.strip()
    return not (first.lstrip().startswith(asked) and second.lstrip().startswith(asked))


def _is_clean(text: str, markup: Callable[[str], object]) -> bool:
    """Whether a text says something, is no JSON, and has no markup at its ends."""
    stripped = text.strip()
    if not stripped:
        return False
    beginning = stripped[0]
    if beginning in _JSON:
        return False
    if beginning in BEGINNINGS or stripped[-1] in ENDINGS:
        return markup(text) is None
    return True
