"""Rows of one file as they were read, many at a time, before anybody knows whether they can be used.

`values` gives for each row its columns, as far as they can be had at once, or None. `says_once` holds what a
plain row (engine/plain) must keep that its columns alone cannot tell. `row` is the row for the careful way.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import orjson

from engine.checked_rows import Row, checked_row
from engine.json_rows import Piece

Values = dict[str, Any]


class RawBatch(Protocol):
    """Rows of one file. A blank line has a place among them, and is no row."""

    @property
    def file(self) -> str:
        """The file's name."""
        ...

    @property
    def lines(self) -> Sequence[int]:
        """The line of each row, from 1."""
        ...

    def values(self) -> Iterator[Values | None]:
        """The columns of each row, or None where they are not had so easily."""
        ...

    def says_once(self, place: int, values: Values) -> bool:
        """Whether a row whose values are scalars or lists of {role, content} is what `values` says."""
        ...

    def row(self, place: int) -> Row | None:
        """The row at a place, checked; None where there is only a blank line."""
        ...


class LineBatch:
    """Rows as JSON text, one a line; or as a piece, which may be a refused one."""

    def __init__(self, file: str, first_line: int, pieces: Sequence[Piece | bytes]) -> None:
        self.file = file
        self.lines = range(first_line, first_line + len(pieces))
        self._refused: dict[int, Piece] = {}
        self._texts: list[bytes] = []
        for place, piece in enumerate(pieces):
            if isinstance(piece, bytes):
                self._texts.append(piece)
            elif piece.reason:
                self._refused[place] = piece
                self._texts.append(b"")
            else:
                self._texts.append(piece.raw)

    def values(self) -> Iterator[Values | None]:
        for text in self._texts:
            try:
                values = orjson.loads(text)
            except ValueError:
                yield None
                continue
            yield values if type(values) is dict else None

    def says_once(self, place: int, values: Values) -> bool:
        """Whether no name stands twice in one object, and no letter is NUL.

        A string of JSON has two quotes, and as many more as are escaped in it. So quotes are counted: a name
        that stands twice has a string in the text that is not in the values."""
        text = self._texts[place]
        strings = len(values)
        for value in values.values():
            if type(value) is str:
                strings += 1
            elif type(value) is list:
                strings += 4 * len(value)
        quotes = text.count(b'"')
        if b"\\" in text:
            if b"\\u0000" in text:
                return False
            if quotes != 2 * strings:
                quotes -= text.replace(b"\\\\", b"").count(b'\\"')
        return quotes == 2 * strings

    def row(self, place: int) -> Row | None:
        piece = self._refused.get(place) or Piece(self._texts[place])
        if not piece.reason and not piece.raw.strip():
            return None
        return checked_row(self.file, self.lines[place], piece)


class RowBatch:
    """Rows that were checked one by one, as those of tables are; each has a line of its own."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.file = rows[0].file
        self.lines = [row.line for row in rows]
        self._rows = rows
        self._texts = LineBatch(self.file, 0, [_text_of(row) for row in rows])

    def values(self) -> Iterator[Values | None]:
        return self._texts.values()

    def says_once(self, place: int, values: Values) -> bool:
        return self._texts.says_once(place, values)

    def row(self, place: int) -> Row | None:
        return self._rows[place]


def _text_of(row: Row) -> bytes:
    return b"" if row.reason else row.text.encode()
