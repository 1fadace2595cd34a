"""Read any raw file into rows of JSON text, in constant memory. What cannot be read is a row with its reason.

- Files (engine/inputs.py finds them): JSON Lines, JSON arrays, CSV and TSV, also in gzip, zstd and bz2;
  Parquet and Arrow. The name says which of these a file is.
- A row is validated once and strictly (engine/checked_rows.py).
- A row stays text: the SQL of a format takes it apart (engine/formats.py).
- A file that breaks off inside its compression, or whose Parquet footer is damaged, stops the run, since
  nobody can say which rows it lost.
"""

import contextlib
import gzip
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson
import pyarrow as pa

from engine import columnar_rows, csv_rows, json_rows
from engine.checked_rows import Row as Row
from engine.checked_rows import checked_row
from engine.folders import COMPRESSIONS, uncompressed_name
from engine.gzip_ends import goes_on_behind, is_padded
from engine.input_errors import not_read, reason_of_system
from engine.inputs import find as find
from engine.json_rows import Piece
from engine.raw_batches import LineBatch, RawBatch, RowBatch
from schemas.errors import UserError

_CHUNK = 1 << 20
_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 8 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def rows(files: dict[str, Path], max_row_bytes: int) -> Iterator[Row]:
    """All rows of all files, including those that cannot be read. Raises UserError if a file is damaged."""
    for name, path in files.items():
        with _named_if_damaged(path):
            yield from _rows_of_file(name, path, max_row_bytes)


@dataclass(frozen=True)
class Part:
    """A file to read, or the bytes of a file of JSON Lines from `begin` to `end`: whole lines."""

    name: str
    path: Path
    begin: int = 0
    end: int | None = None
    is_first: bool = True  # of its file


def batches(part: Part, max_row_bytes: int) -> Iterator[RawBatch]:
    """The rows of `rows`, many at a time; the lines are counted from the beginning of the part.

    A blank line is in a batch, and is no row. Raises UserError if the file is damaged."""
    with _named_if_damaged(part.path):
        yield from _batches(part, max_row_bytes)


def parts_of(name: str, path: Path, limit: int, size: int) -> Iterator[Part]:
    """A file in parts of about so many bytes, in order; one where it is no plain file of JSON Lines.

    Raises UserError where it cannot be read."""
    with _named_if_damaged(path):
        whole = path.stat().st_size
        if whole < 2 * size or not _is_plain_lines(path, limit):
            yield Part(name, path)
            return
        with open(path, "rb") as file:
            begin = len(_BYTE_ORDER_MARK) if file.read(len(_BYTE_ORDER_MARK)) == _BYTE_ORDER_MARK else 0
            is_first = True
            while begin < whole:
                end = _end_of_line(file, begin + size, whole)
                yield Part(name, path, begin, end, is_first)
                begin = end
                is_first = False


def _is_plain_lines(path: Path, limit: int) -> bool:
    """Whether a file is JSON Lines without compression."""
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS or suffix in (".parquet", *columnar_rows.ARROW_SUFFIXES):
        return False
    if csv_rows.delimiter_of(uncompressed_name(path)):
        return False
    with opened(path) as stream:
        return not _is_array(path, next(_chunks_without_mark(stream), b""), limit)


def _end_of_line(file: BinaryIO, place: int, whole: int) -> int:
    """Where the line ends that byte `place` is in, its end included."""
    file.seek(place)
    while place < whole and (chunk := file.read(_CHUNK)):
        found = chunk.find(b"\n")
        if found >= 0:
            return place + found + 1
        place += len(chunk)
    return whole


@contextlib.contextmanager
def _named_if_damaged(path: Path) -> Iterator[None]:
    """Raise UserError with the file's name for whatever its bytes make a reader raise."""
    try:
        yield
    except (AssertionError, UserError):
        raise
    except OSError as error:
        raise _not_read(path, error) from None
    except Exception as error:  # what Arrow and the parsers raise on damaged bytes is not to be listed
        raise _damaged(path, error) from None


def _batches(part: Part, limit: int) -> Iterator[RawBatch]:
    suffix = part.path.suffix.lower()
    if suffix == ".parquet" or suffix in columnar_rows.ARROW_SUFFIXES:
        yield from columnar_rows.batches_of(part.name, part.path, limit)
    elif csv_rows.delimiter_of(uncompressed_name(part.path)):
        rows = _rows_of_file(part.name, part.path, limit)
        while some := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            yield RowBatch(some)
    else:
        line = 1
        for pieces in _pieces_of_json(part, limit):
            yield LineBatch(part.name, line, pieces)
            line += len(pieces)


def _pieces_of_json(part: Part, limit: int) -> Iterator[list[Piece | bytes]]:
    """The lines of a part of a file of JSON Lines, or the elements of one JSON array, many at a time."""
    if part.end is not None:
        yield from json_rows.line_batches(_bytes_of(part), limit)
        return
    with opened(part.path) as stream:
        chunks = _chunks_without_mark(stream)
        first = next(chunks, b"")
        all_chunks = itertools.chain([first], chunks)
        if not _is_array(part.path, first, limit):
            yield from json_rows.line_batches(all_chunks, limit)
            return
        elements = json_rows.elements(all_chunks, limit)
        while some := _next_pieces(elements):
            yield some


def _next_pieces(pieces: Iterator[Piece]) -> list[Piece | bytes]:
    """The next ones, as many as may be in memory at once."""
    some: list[Piece | bytes] = []
    size = 0
    for piece in itertools.islice(pieces, _ROWS_AT_ONCE):
        some.append(piece)
        size += len(piece.raw)
        if size > _BYTES_AT_ONCE:
            break
    return some


def _bytes_of(part: Part) -> Iterator[bytes]:
    """The bytes of a part, a chunk at a time, without the byte order mark of the file."""
    assert part.end is not None
    with open(part.path, "rb") as file:
        file.seek(part.begin)
        left = part.end - part.begin
        while left and (chunk := file.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk


def _not_read(path: Path, error: OSError) -> UserError:
    """Why a file cannot be read: the system does not give it, or its bytes are no compressed ones."""
    number = error.errno or reason_of_system(path)
    return not_read(path, number) if number else _damaged(path, error)


def _damaged(path: Path, error: Exception) -> UserError:
    said = str(error).strip() or type(error).__name__
    if path.suffix.lower() == ".gz" and goes_on_behind(path):
        said = "bytes behind the end of the gzip data"
    return UserError(
        f"{path} breaks off or is damaged ({said}): copy it again, or take it out of the recipe's input"
    )


def _rows_of_file(name: str, path: Path, limit: int) -> Iterator[Row]:
    """The rows of one file, by what its name says that it is; JSON where the name says nothing."""
    suffix = path.suffix.lower()
    if suffix == ".parquet" or suffix in columnar_rows.ARROW_SUFFIXES:
        return columnar_rows.rows_of(name, path, limit)
    delimiter = csv_rows.delimiter_of(uncompressed_name(path))
    if delimiter:
        return _rows_of_csv(name, path, delimiter, limit)
    return _rows_of_json(name, path, limit)


def opened(path: Path) -> pa.NativeFile:
    """The file, unpacked while it is read. What Arrow takes no zeros behind, Python does."""
    suffix = path.suffix.lower()
    if suffix == ".gz" and is_padded(path):
        return pa.PythonFile(gzip.open(path), mode="r")
    return pa.input_stream(path, compression=COMPRESSIONS.get(suffix))


def _rows_of_csv(name: str, path: Path, delimiter: str, limit: int) -> Iterator[Row]:
    """The rows of a table of text below its header."""
    with opened(path) as stream:
        yield from csv_rows.rows(name, path, _chunks_without_mark(stream), delimiter, limit)


def _rows_of_json(name: str, path: Path, limit: int) -> Iterator[Row]:
    """The rows of a JSON Lines file or of one JSON array. Blank lines are no rows, but count as lines."""
    with opened(path) as stream:
        chunks = _chunks_without_mark(stream)
        first = next(chunks, b"")
        all_chunks = itertools.chain([first], chunks)
        if _is_array(path, first, limit):
            pieces = json_rows.elements(all_chunks, limit)
        else:
            pieces = json_rows.lines(all_chunks, limit)
        for line, piece in enumerate(pieces, 1):
            if piece.reason or piece.raw.strip():
                yield checked_row(name, line, piece)


def _chunks_without_mark(stream: pa.NativeFile) -> Iterator[bytes]:
    """What a stream holds, a chunk at a time, without the byte order mark of UTF-8."""
    beginning = stream.read(len(_BYTE_ORDER_MARK))
    if beginning != _BYTE_ORDER_MARK:
        yield beginning + stream.read(_CHUNK)
    while chunk := stream.read(_CHUNK):
        yield chunk


def _is_array(path: Path, first_chunk: bytes, limit: int) -> bool:
    """True if the file is one JSON array, judged by its beginning; under a name of JSON Lines, by all of it.

    A file of JSON Lines whose first line is in brackets is none: its other lines must not be hidden.
    """
    text = first_chunk.lstrip()
    if not text.startswith(b"["):
        return False
    first_line, _, rest = text.partition(b"\n")
    try:
        orjson.loads(first_line)
    except orjson.JSONDecodeError:
        # The array spans several lines or chunks; or the line is broken, and others follow it.
        is_by_lines = uncompressed_name(path).endswith((".jsonl", ".jsonlines", ".ndjson"))
        return not is_by_lines or _is_one_array(path, limit)
    return not rest.strip()


def _is_one_array(path: Path, limit: int) -> bool:
    """True if the whole file is one JSON array of objects, with nothing outside of it."""
    with opened(path) as stream:
        try:
            for piece in json_rows.elements(_chunks_without_mark(stream), limit):
                is_object = piece.raw.lstrip().startswith(b"{")
                if not is_object or piece.reason not in (None, "over_long"):
                    return False
        except EOFError:
            return False
    return True
