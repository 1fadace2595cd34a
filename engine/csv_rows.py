"""CSV and TSV as rows, in constant memory: a line of names, then rows whose cells are strings.

- Quotes are those of RFC 4180, which pandas and Excel write: a cell in quotes may hold delimiters, newlines
  and doubled quotes. In a cell without quotes a quote is a character.
- No cell is guessed to be a number. An empty cell is null; one that is written "" is an empty text.
- A row with too many cells or too few, or with text behind a closing quote, is refused alone. Where quotes
  leave open in which line a row ends, the run stops: nobody can say which rows they hide.
- Only borders of rows are looked for here; the cells are parsed by Python's csv.
"""

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from engine.checked_rows import Row, place_of_bad_utf8
from engine.json_rows import OpenRow, Piece
from engine.text_looks import header_names, other_delimiter
from schemas.errors import UserError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_NAMES_SHOWN = 8
# Python's own limit of a cell is 128 KiB; prompts.max_row_bytes is ours.
csv.field_size_limit(sys.maxsize)


class _Record(NamedTuple):
    """The bytes of one row: `lines` of the file from `line` on. `malformed`: text follows a closing quote."""

    line: int
    lines: int
    malformed: bool
    piece: Piece


def delimiter_of(name: str) -> str | None:
    """What separates the cells of a file, by its name; None where the name is of no table."""
    return _DELIMITERS.get(Path(name).suffix)


def rows(name: str, path: Path, chunks: Iterator[bytes], delimiter: str, limit: int) -> Iterator[Row]:
    """The rows below the header. Blank lines are no rows. Raises UserError for a header that is none, and
    where it is unclear where a row ends."""
    header: list[str] | None = None
    for record in _records(path, chunks, delimiter, limit):
        if not record.piece.raw.strip(b" \r\n") and not record.piece.reason:
            continue
        if header is None:
            header = _header(path, record, delimiter)
        else:
            yield _row(name, record, header, delimiter)


def _header(path: Path, record: _Record, delimiter: str) -> list[str]:
    """The names of the columns; one without a name has pandas' name for it. Raises UserError."""
    raw = record.piece.raw
    beginning = raw.lstrip()[:1]
    if beginning in (b"{", b"["):
        raise UserError(f"{path} is named as a table, and looks like JSON; rename it to {path.name}.jsonl")
    if b"\r" in raw.removesuffix(b"\r") and record.lines == 1:
        raise UserError(
            f"{path}: its lines end in \\r alone; write them with \\n: tr '\\r' '\\n' < {path.name}"
        )
    if b"\0" in raw:
        raise UserError(f"{path} has NUL in its header, as text in UTF-16 has; write it in UTF-8")
    bad = place_of_bad_utf8(raw)
    if bad:
        raise UserError(f"{path}: its header is {bad}; write it in UTF-8: iconv -f LATIN1 -t UTF-8")
    try:
        if record.piece.reason:
            raise csv.Error(record.piece.detail)
        names = _cells(raw.decode(), delimiter)
    except csv.Error as error:
        raise UserError(f"{path}: its first line should name the columns, and is none: {error}") from None
    if len(names) == 1:
        remedy = other_delimiter(raw.decode(), delimiter)
        if remedy:
            raise UserError(f"{path}: {remedy.replace('FILE', path.name)}")
    return _named(path, names)


def _named(path: Path, cells: list[str | None]) -> list[str]:
    names = header_names(cells)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(
            f"{path} has several columns named {twice[0]}, and nobody can say which one counts: give each a "
            "name of its own in the first line (a file without names needs such a line)"
        )
    return names


def _row(name: str, record: _Record, header: list[str], delimiter: str) -> Row:
    """One row as a JSON object of strings, or with the reason why it is none."""
    raw, reason, detail = record.piece
    if reason is None:
        bad = place_of_bad_utf8(raw)
        if bad:
            reason, detail = "bad_utf8", bad
    text = raw.rstrip(b"\r").decode(errors="backslashreplace")
    if reason:
        return Row(name, record.line, text, reason, detail)
    try:
        cells = _cells(raw.decode(), delimiter)
    except csv.Error as error:
        return Row(name, record.line, text, "bad_csv", _what_is_wrong(str(error)))
    if len(cells) != len(header):
        shown = ", ".join(header[:_NAMES_SHOWN])
        detail = f"{len(cells)} cells, and the header names {len(header)} columns ({shown})"
        return Row(name, record.line, text, "bad_csv", detail)
    values = dict(zip(header, cells, strict=True))
    return Row(name, record.line, orjson.dumps(values).decode())


def _what_is_wrong(error: str) -> str:
    """csv's complaint about a row, with what to do."""
    if "expected after" in error:
        return (
            f"text follows the closing quote of a cell ({error}); double the quotes within a cell, or write "
            "the file as JSON Lines"
        )
    return error


def _cells(text: str, delimiter: str) -> list[str | None]:
    """The cells of one row. An empty one is null unless it is in quotes. Raises csv.Error."""
    cells: list[str | None] = list(next(csv.reader([text], delimiter=delimiter, strict=True)))
    if "" not in cells:
        return cells
    written = re.finditer(rf'("(?:[^"]|"")*")?[^{delimiter}]*(?:{delimiter}|$)', text)
    for place, (cell, as_written) in enumerate(zip(cells, written, strict=False)):
        if cell == "" and as_written[1] is None:
            cells[place] = None
    return cells


def _records(path: Path, chunks: Iterator[bytes], delimiter: str, limit: int) -> Iterator[_Record]:
    """The file's rows, the header and blank lines included; of a long one no more than the limit is held."""
    scanner = _Scanner(delimiter.encode())
    row = OpenRow(limit)
    line = 1
    more_lines = 0  # of the row in progress
    rest = b""
    for chunk, is_last in _with_last(chunks):
        data = rest + chunk
        begin = 0
        for end in scanner.ends(data, is_last):
            part = data[begin:end]
            begin = end + 1
            more_lines += part.count(b"\n")
            record = _Record(line, more_lines + 1, scanner.malformed, row.finish(part))
            _check_lines(path, record)
            yield record
            line += record.lines
            more_lines = 0
        left = data[begin : scanner.at]
        more_lines += left.count(b"\n")
        row.extend(left)
        rest = data[scanner.at :]
    if scanner.in_quotes:
        raise _unclear(path, line, "the end of the file comes before the quote is closed")
    if row.length:
        record = _Record(line, more_lines + 1, scanner.malformed, row.finish(b""))
        _check_lines(path, record)
        yield record


def _check_lines(path: Path, record: _Record) -> None:
    """Raise UserError for a row over several lines whose quotes are not in order: it may hold other rows."""
    if record.malformed and record.lines > 1:
        last = record.line + record.lines - 1
        raise _unclear(
            path, record.line, f"text follows the quote that would close it in or before line {last}"
        )


def _unclear(path: Path, line: int, what: str) -> UserError:
    return UserError(
        f"{path}: a quote that opens in the row of line {line} is not closed in order ({what}), so nobody "
        "can say which rows it holds: close it, double the quotes within a cell, or write the file as "
        "JSON Lines"
    )


def _with_last(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each chunk, and an empty one that is the last."""
    for chunk in chunks:
        yield chunk, False
    yield b"", True


class _Scanner:
    """Finds the newlines that end a row: those outside of quotes; its state goes from chunk to chunk."""

    def __init__(self, delimiter: bytes):
        self.in_quotes = False
        # Of the row in progress, or of the one that has just ended.
        self.malformed = False
        # How many bytes of the data were scanned: the last one may mean something only with what follows it.
        self.at = 0
        self._delimiter = delimiter
        self._marks = re.compile(b"\n|" + re.escape(delimiter) + b'"')
        self._closes = (delimiter, b"\n", b"\r", b"")
        self._is_at_start = True

    def ends(self, data: bytes, is_last: bool) -> Iterator[int]:
        """The positions of the newlines that end rows."""
        self.at = 0
        while self.at < len(data):
            if self._is_at_start:
                self._is_at_start = False
                self.malformed = False
                if data[self.at : self.at + 1] == b'"':
                    self.in_quotes = True
                    self.at += 1
                    continue
            if self.in_quotes:
                if not self._close(data, is_last):
                    return
                continue
            mark = self._marks.search(data, self.at)
            if mark is None:
                may_open = data.endswith(self._delimiter) and not is_last
                self.at = len(data) - may_open
                return
            self.at = mark.end()
            self.in_quotes = mark[0] != b"\n"
            if not self.in_quotes:
                self._is_at_start = True
                yield mark.start()

    def _close(self, data: bytes, is_last: bool) -> bool:
        """Go on to the next quote within a cell in quotes; False where the data ends before it is clear."""
        quote = data.find(b'"', self.at)
        if quote < 0:
            self.at = len(data)
            return False
        following = data[quote + 1 : quote + 2]
        if not following and not is_last:
            self.at = quote
            return False
        self.at = quote + 1
        if following == b'"':
            self.at += 1
        else:
            self.in_quotes = False
            self.malformed = self.malformed or following not in self._closes
        return True
