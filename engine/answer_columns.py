"""Answers under names that no format reads: which columns they are in, and the setting that renames them.

Rows such as prompt, response_chosen, response_rejected are read as prompts alone once the answers are left
out, and the pairs are lost. So these columns are found by the words of their names and by what they hold.
"""

import re
from collections.abc import Sequence
from typing import Any

import orjson

from engine.column_names import is_metadata
from engine.raw import Row
from engine.row_looks import SEVERAL
from engine.wording import columns_setting
from schemas.row_checks import toml_value

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_BETTER = frozenset({"chosen", "positive", "win", "winner", "winning", "preferred", "accepted"})
_WORSE = frozenset(
    {"rejected", "reject", "negative", "lose", "loser", "losing", "dispreferred", "nonpreferred"}
)
_ANSWERS = frozenset({"response", "answer", "output", "completion", "generation"}) | _BETTER | _WORSE
_NO_ANSWERS = frozenset({"prompt", "question", "instruction", "reference", "reason", "reasoning"})


def answer_columns(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Those of some columns that hold answers: text, turns or lists of them, under such a name."""
    found: dict[str, None] = {}
    for row in rows:
        values = _values(row)
        found |= dict.fromkeys(name for name in names if _is_answer(name, values.get(name)))
    bare = [name for name in found if not set(_words(name)) <= {"winner", "preferred"}]
    # `winner` beside two answers says which of them it is.
    return bare if len(bare) > 1 else list(found)


def _values(row: Row) -> dict[str, Any]:
    """A row's columns; none of a row that cannot be read."""
    values: dict[str, Any] = {} if row.reason else orjson.loads(row.text)
    return values


def _is_answer(name: str, value: object) -> bool:
    words = set(_words(name))
    is_named_so = bool(words & _ANSWERS) and not words & _NO_ANSWERS and not is_metadata(name, value)
    return is_named_so and _holds_text(value)


def _holds_text(value: object) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, list):
        return any(map(_holds_text, value))
    if isinstance(value, dict):
        return any(map(_holds_text, value.values()))
    return False


def _words(name: str) -> list[str]:
    """The words of a name without a plural's s; `non_preferred` is one."""
    text = re.sub(r"(?i)\b(non|not)[ _-]?(?=preferred)", "non", name)
    return [word.lower().removesuffix("s") for word in _WORD.findall(text)]


def advice(names: Sequence[str], rows: Sequence[Row]) -> str:
    """What to do with the columns that hold answers, with the setting."""
    if len(names) == 1:
        (name,) = names
        if any(isinstance(_values(row).get(name), list) for row in rows):
            return f"these rows have several answers in {name}: {SEVERAL}"
        right = columns_setting({"reference": name})
        alone = f"prompts.ignore = [{toml_value(name)}]"
        return (
            f"these rows have an answer under another name: {name}. Where it is the right answer, for the "
            f"judge: {right}; for the prompts alone: {alone}"
        )
    better = [name for name in names if set(_words(name)) & _BETTER]
    worse = [name for name in names if set(_words(name)) & _WORSE]
    said = f"these rows have answers under other names: {', '.join(names)}; rename them"
    if better and worse:
        return f"{said}: {columns_setting({'chosen': better[0], 'rejected': worse[0]})}"
    first = columns_setting({"chosen": names[0], "rejected": names[1]})
    return f"{said}, the better one of each row to chosen; where it is {names[0]}: {first}"
