"""Other spellings of the columns that a format reads where a row has them: system_prompt for system."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from engine.column_names import holds, words_of

_SIDES = {
    "chosen": frozenset({"chosen", "w", "win", "winner", "winning", "better", "preferred", "accepted"}),
    "rejected": frozenset({"rejected", "reject", "l", "lose", "loser", "losing", "worse", "dispreferred"}),
}
_NUMBERS = frozenset({"score", "rating", "reward"})
# What such a name may say beside its side and that it is a number.
_OF_A_NUMBER_NAMES = "rm model overall avg mean average final total human judge llm gpt value"
_OF_A_NUMBER = frozenset(_OF_A_NUMBER_NAMES.split())
_SYSTEM = frozenset({"system", "sys"})
_OF_SYSTEM_NAMES = "prompt message msg instruction text content default custom"
_OF_SYSTEM = frozenset(_OF_SYSTEM_NAMES.split())
_REFERENCE = frozenset({"reference", "ref", "gold", "golden", "truth", "correct"})
_OF_REFERENCE = frozenset({"ground", "answer", "response", "solution", "text", "right", "final"})
_OF_HISTORY = frozenset({"chat", "conversation", "dialog", "dialogue", "history"})


def renames(
    refused: Iterable[str], row: Mapping[str, Any], optional: Iterable[str]
) -> tuple[tuple[str, str], ...]:
    """Of columns that are not read, (ours, theirs) where one is an optional column in another spelling."""
    known = list(optional)
    found: dict[str, str] = {}
    for name in refused:
        ours = _ours(name, row.get(name)) if name in row else None
        if ours in known and ours not in found and not _is_there(ours, row, known):
            found[ours] = name
    return tuple(found.items())


def _is_there(ours: str, row: Mapping[str, Any], known: Iterable[str]) -> bool:
    """Whether the row says already what a column would say: itself, or the number of the same side."""
    same = [ours]
    for side in _SIDES:
        if ours == f"score_{side}":
            same = [name for name in known if side in words_of(name)]
    return any(holds(row.get(name)) for name in same)


def _ours(name: str, value: object) -> str | None:
    """The name that formats have for a column, by the words of its own name and its value."""
    words = set(words_of(name))
    if isinstance(value, list):
        return "history" if "history" in words and words <= _OF_HISTORY else None
    if _is_number(value) and words & _NUMBERS:
        return _side_number(words - _NUMBERS - _OF_A_NUMBER)
    if not isinstance(value, str):
        return None
    if words & _SYSTEM and words <= _SYSTEM | _OF_SYSTEM:
        return "system"
    if words & _REFERENCE and words <= _REFERENCE | _OF_REFERENCE:
        return "reference"
    return None


def _side_number(words: set[str]) -> str | None:
    """The column of the number of the one side that these words say."""
    for side, spellings in _SIDES.items():
        if words and words <= spellings:
            return f"score_{side}"
    return None


def _is_number(value: object) -> bool:
    """Whether a value is a number, or a text that is one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False
