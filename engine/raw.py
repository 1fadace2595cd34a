"""Read any raw file into rows of JSON text, in constant memory. What cannot be read is a row with its reason.

- Files (engine/inputs.py finds them): JSON Lines, JSON arrays, CSV and TSV, also in gzip, zstd and bz2;
  Parquet and Arrow. The name says which of these a file is.
- A row is validated once and strictly (engine/checked_rows.py).
- A row stays text: the SQL of a format takes it apart (engine/formats.py).
- A file that breaks off inside its compression, or whose Parquet footer is damaged, stops the run, since
  nobody can say which rows it lost.
"""

import gzip
import itertools
from collections.abc import Iterator
from pathlib import Path

import orjson
import pyarrow as pa

from engine import columnar_rows, csv_rows, json_rows
from engine.checked_rows import Row as Row
from engine.checked_rows import checked_row
from engine.folders import COMPRESSIONS, uncompressed_name
from engine.gzip_ends import goes_on_behind, is_padded
from engine.input_errors import not_read, reason_of_system
from engine.inputs import find as find
from schemas.errors import UserError

_CHUNK = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def rows(files: dict[str, Path], max_row_bytes: int) -> Iterator[Row]:
    """All rows of all files, including those that cannot be read. Raises UserError if a file is damaged."""
    for name, path in files.items():
        try:
            yield from _rows_of_file(name, path, max_row_bytes)
        except (AssertionError, UserError):
            raise
        except OSError as error:
            raise _not_read(path, error) from None
        except Exception as error:  # what Arrow and the parsers raise on damaged bytes is not to be listed
            raise _damaged(path, error) from None


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
    if suffix == ".parquet":
        return columnar_rows.rows_of_parquet(name, path, limit)
    if suffix in columnar_rows.ARROW_SUFFIXES:
        return columnar_rows.rows_of_arrow(name, path, limit)
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
