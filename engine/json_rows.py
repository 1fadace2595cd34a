"""Cut the bytes of a JSON Lines file, or of one JSON array, into rows, in constant memory.

- The input is chunks of bytes; a row may span any number of them.
- Only the borders of the JSON are looked for, so a bad row does not hide the rows after it. A parser is asked
  whether an element is whole where that is quicker than to look at its marks one by one.
- Of a row longer than the limit no more than the limit is held in memory; it becomes a refused row.
- An array without an end raises EOFError, since nobody can say how many rows are behind the place.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import orjson

EXCERPT_BYTES = 4096  # how much of a refused row is kept
_OUTSIDE_STRINGS = re.compile(rb'["\[\]{},]')
_INSIDE_A_STRING = re.compile(rb'["\\]')
_END_OF_OBJECT = re.compile(rb"\}\s*[,\]]")  # and of the element of an array that it is
_MOST_ENDS = 64  # that are tried for the end of an element
_OPENING = b"[{"
_CLOSING = b"]}"


class Piece(NamedTuple):
    """The bytes of one row; or, where `reason` is set, an excerpt of a row that is refused."""

    raw: bytes
    reason: str | None = None
    detail: str | None = None


def limited(raw: bytes, length: int, limit: int) -> Piece:
    """A row of `length` bytes, refused if these are more than `limit`; then `raw` may be its beginning."""
    if length <= limit:
        return Piece(raw)
    detail = f"{length} bytes, more than prompts.max_row_bytes = {limit}"
    return Piece(raw[:EXCERPT_BYTES], "over_long", detail)


class OpenRow:
    """A row whose end has not been read yet. It holds at most `limit + 1` bytes, and counts the others."""

    def __init__(self, limit: int):
        self._limit = limit
        self.beginning = b""
        self.length = 0

    def extend(self, part: bytes) -> None:
        room = max(0, self._limit + 1 - self.length)
        self.beginning += part[:room]
        self.length += len(part)

    def finish(self, last_part: bytes) -> Piece:
        """The row that ends with `last_part`. What is added after this belongs to the next row."""
        raw = self.beginning + last_part[: self._limit + 1]
        length = self.length + len(last_part)
        self.beginning = b""
        self.length = 0
        return limited(raw, length, self._limit)


def lines(chunks: Iterator[bytes], limit: int) -> Iterator[Piece]:
    """The lines, blank ones included. They end at b"\\n" only, since a JSON string may hold U+2028."""
    row = OpenRow(limit)
    for chunk in chunks:
        *endings, rest = chunk.split(b"\n")
        for ending in endings:
            yield row.finish(ending)
        row.extend(rest)
    if row.length:
        yield row.finish(b"")


def line_batches(chunks: Iterator[bytes], limit: int) -> Iterator[list[Piece | bytes]]:
    """The lines as `lines` gives them, those of a chunk at a time; a line as it stands is bytes."""
    row = OpenRow(limit)
    for chunk in chunks:
        *endings, rest = chunk.split(b"\n")
        if endings:
            first = row.finish(endings[0])
            others = endings[1:]
            if len(chunk) > limit:
                yield [first, *(limited(ending, len(ending), limit) for ending in others)]
            else:
                yield [first, *others]
        row.extend(rest)
    if row.length:
        yield [row.finish(b"")]


def elements(chunks: Iterator[bytes], limit: int) -> Iterator[Piece]:
    """The elements of one JSON array. Raises EOFError, with the place, if the array has no end.

    What stands outside of it, or between two arrays one after another, is a refused piece."""
    array = _ArrayScanner()
    row = OpenRow(limit)
    outside = OpenRow(limit)
    place = _Place()
    for chunk in chunks:
        begin = 0  # where the element in progress begins in this chunk
        for mark, position in array.borders(chunk):
            last_part = chunk[begin:position]
            place.pass_over(chunk[begin : position + 1])
            begin = position + 1
            if mark in _OPENING:
                place.open()
                yield from _refused_text(outside.finish(last_part))
                array.leap(chunk, begin)
                continue
            is_blank = not row.beginning.strip() and not last_part.strip()
            element = row.finish(last_part)
            place.next_element()
            # Nothing stands before the end of an empty array, or between a trailing comma and the end.
            if mark == b"," or not is_blank:
                yield element
            if mark in _CLOSING:
                place.close()
            else:
                array.leap(chunk, begin)
        rest = chunk[begin:]
        place.pass_over(rest)
        if array.depth:
            row.extend(rest)
        else:
            outside.extend(rest)
    if array.depth:
        # Cut off, or a quote or bracket too many or too few: which rows are behind the place is unknown.
        raise EOFError(place.problem(row.beginning, is_open=array.depth > 0))
    yield from _refused_text(outside.finish(b""))


class _Place:
    """Where in the input the element in progress begins, for the message of an array that has no end."""

    def __init__(self) -> None:
        self._bytes = 0  # that are passed over, and the line ends in them
        self._lines = 0
        self._element = (1, 0, 0)  # its number, and the bytes and line ends before it
        self._closed = ""  # where the array was closed for the first time

    def pass_over(self, part: bytes) -> None:
        self._bytes += len(part)
        self._lines += part.count(b"\n")

    def open(self) -> None:
        """An array begins, and its first element with it."""
        self._element = (self._element[0], self._bytes, self._lines)

    def next_element(self) -> None:
        number, _, _ = self._element
        self._element = (number + 1, self._bytes, self._lines)

    def close(self) -> None:
        number, _, _ = self._element
        self._closed = (
            self._closed or f"behind element {number - 1} (byte {self._bytes}, line {self._lines + 1})"
        )

    def problem(self, beginning: bytes, is_open: bool) -> str:
        """Why the array has no end. `beginning`: the first bytes of the element in progress."""
        if not is_open:
            return (
                f"its JSON array is closed {self._closed}, and a bracket follows that closes nothing: there "
                "is a closing bracket too many, or an opening one is missing, in the element that ends there"
            )
        number, before, lines = self._element
        text = beginning.lstrip()
        blank = beginning[: len(beginning) - len(text)]
        start = text[:80].decode(errors="backslashreplace")
        if not start:
            return f"its JSON array has no end: it breaks off behind element {number - 1}"
        byte = before + len(blank) + 1
        line = lines + blank.count(b"\n") + 1
        return (
            f"its JSON array has no end: element {number}, which begins at byte {byte} in line {line} with "
            f"{start!r}, is not closed before the file ends; the elements before it are whole; either the "
            "file is cut off there, or a bracket or a quote is missing in that element"
        )


def _refused_text(text: Piece) -> Iterator[Piece]:
    """Text that stands outside of the array, as a refused piece; none where it is blank."""
    if text.raw.strip():
        yield Piece(text.raw[:EXCERPT_BYTES], "bad_json", "text outside of the JSON array")


class _ArrayScanner:
    """Finds where the elements of a JSON array begin and end, by brackets, commas and quotes alone.

    The state is carried from chunk to chunk. Both kinds of brackets count alike: a parser checks the elements
    later.
    """

    def __init__(self) -> None:
        # Open brackets: 0 is outside of the array, 1 in the array itself, more in a nested value. Below 0: a
        # bracket was closed that was never opened.
        self.depth = 0
        self._in_string = False
        self._after_backslash = False
        self._at = 0  # in the chunk

    def leap(self, chunk: bytes, begin: int) -> None:
        """Go to the end of the element that begins at a border, if that is an object that ends in this chunk.

        Where a text is whole JSON, its quotes and brackets need not be looked at: it leaves none open."""
        for end in itertools.islice(_END_OF_OBJECT.finditer(chunk, begin), _MOST_ENDS):
            text = chunk[begin : end.start() + 1]
            if text.count(b"{") != text.count(b"}") or text.count(b"[") != text.count(b"]"):
                continue
            with contextlib.suppress(ValueError):
                orjson.loads(text)
                self._at = end.start() + 1
                return

    def borders(self, chunk: bytes) -> Iterator[tuple[bytes, int]]:
        """Marks that open the array, separate two elements or close the array; each with its position."""
        for mark, position in self._marks_outside_strings(chunk):
            if mark in _OPENING:
                self.depth += 1
                is_border = self.depth == 1
            elif mark in _CLOSING:
                self.depth -= 1
                is_border = self.depth == 0
            else:
                is_border = self.depth == 1
            if is_border:
                yield mark, position

    def _marks_outside_strings(self, chunk: bytes) -> Iterator[tuple[bytes, int]]:
        """Brackets and commas that are no part of a string."""
        self._at = 0
        while self._at < len(chunk):
            if self._after_backslash:
                # The escaped character is skipped; it may be the first one of a chunk.
                self._after_backslash = False
                self._at += 1
                continue
            pattern = _OUTSIDE_STRINGS
            if self._in_string:
                pattern = _INSIDE_A_STRING
            match = pattern.search(chunk, self._at)
            if match is None:
                return
            self._at = match.end()
            mark = match[0]
            if mark == b"\\":
                self._after_backslash = True
            elif mark == b'"':
                self._in_string = not self._in_string
            else:
                yield mark, match.start()
