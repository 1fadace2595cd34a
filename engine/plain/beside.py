"""What a plain row may have beside the columns that its format reads: values that only tell about the row.

Whether a column may be left out depends on its name and its value (engine/column_names.py). Here are the
names for which no number, truth value, null or text changes the answer, so that a name is judged once, not
each row.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.column_names import changes_meaning, is_finite, says_nothing, words_of
from engine.columns import Columns
from engine.plain.plain_row import PlainFormat

# A number, and a text that is neither digits nor one word: between them what a name says of any plain value.
_PROBES = (0, "two words")
_SIMPLE_NAME = re.compile(r"[\w .\-]+")
_SCALARS = frozenset({str, int, float, bool, type(None)})
_NOT_SEEN = ("",)
_MOST_SHAPES = 1000  # that are remembered: an input where each row has columns of its own has no end of them


class Beside:
    """Looks at what rows have beside what a format reads; `left_out` are the names of what was noted."""

    def __init__(
        self, plain: PlainFormat, columns: Columns, ignore: Collection[str], split_column: str
    ) -> None:
        self.left_out: dict[str, None] = {}
        self._plain = plain
        self._columns = columns
        self._ignore = frozenset(ignore)
        self._split_column = split_column
        self._extras_of_shape: dict[tuple[str, ...], tuple[str, ...] | None] = {}

    def extras(self, values: Mapping[str, Any]) -> tuple[str, ...] | None:
        """The columns that a row has beside; None where one of them may change its meaning or is refused."""
        shape = tuple(values)
        extras = self._extras_of_shape.get(shape, _NOT_SEEN)
        if extras is _NOT_SEEN:
            extras = self._remembered(shape)
        if extras:
            for name in extras:
                if not _is_plain(values[name]):
                    return None
        return extras

    def note(self, values: Mapping[str, Any], extras: Sequence[str]) -> None:
        """Remember what of a row is left out."""
        for name in extras:
            is_known = name in self.left_out or name in self._ignore or name == self._split_column
            if not is_known and not says_nothing(name, values[name]):
                self.left_out[name] = None

    def _remembered(self, shape: tuple[str, ...]) -> tuple[str, ...] | None:
        if len(self._extras_of_shape) >= _MOST_SHAPES:
            self._extras_of_shape.clear()
        extras = self._judged(shape)
        self._extras_of_shape[shape] = extras
        return extras

    def _judged(self, shape: tuple[str, ...]) -> tuple[str, ...] | None:
        """The columns of a row that its format does not read; None where one makes it no plain row."""
        extras: list[str] = []
        for name in shape:
            if name in self._plain.names:
                if name in self._ignore or name == self._split_column:
                    return None
                continue
            if not (name == self._split_column or name in self._ignore or self._is_harmless(name)):
                return None
            extras.append(name)
        return tuple(extras)

    def _is_harmless(self, name: str) -> bool:
        """Whether no plain value of a column changes what a row means."""
        if name in self._plain.not_beside or name in self._columns.reads or "*" in self._columns.reads:
            return False
        if not _SIMPLE_NAME.fullmatch(name) or words_of(name)[-1:] in (("step",), ("turn",)):
            return False
        return not any(changes_meaning(name, value) for value in _PROBES)


def _is_plain(value: object) -> bool:
    """Whether a value is a number, a truth value, null or a text that is no JSON."""
    if type(value) not in _SCALARS or not is_finite(value):
        return False
    return not isinstance(value, str) or not value.lstrip().startswith(("[", "{"))
