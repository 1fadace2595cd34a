"""Read any raw file into rows of JSON text, in constant memory. What cannot be read is a row with its reason.

- Files (engine/inputs.py finds them): JSON Lines, JSON arrays and Parquet; gzip, zstd and bz2.
- A row is validated here, once and strictly: orjson refuses what Arrow would later fail on for a whole batch.
- A row stays text: the SQL of a format takes it apart (engine/formats.py).
- A file that breaks off inside its compression, or whose Parquet footer is damaged, stops the run, since
  nobody can say which rows it lost.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from engine import json_rows
from engine.column_names import is_finite
from engine.folders import COMPRESSIONS, uncompressed_name
from engine.inputs import find as find
from engine.json_rows import Piece
from engine.turns import without_nulls
from schemas.errors import UserError

_CHUNK = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PARQUET_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One input row. `text` is a JSON object; or `reason` says why not, and `text` is what was read."""

    file: str
    line: int
    text: str
    reason: str | None = None
    detail: str | None = None
    # Of a row that is refused for NaN or Infinity and nothing else: the columns that hold it.
    not_finite: tuple[str, ...] = ()


def rows(files: dict[str, Path], max_row_bytes: int) -> Iterator[Row]:
    """All rows of all files, including those that cannot be read. Raises UserError if a file is damaged."""
    for name, path in files.items():
        if path.suffix.lower() == ".parquet":
            rows_of_file = _rows_of_parquet(name, path, max_row_bytes)
        else:
            rows_of_file = _rows_of_json(name, path, max_row_bytes)
        try:
            yield from rows_of_file
        except (OSError, pa.ArrowException, EOFError) as error:
            raise UserError(
                f"{path} breaks off or is damaged ({str(error).strip()}): "
                "copy it again, or take it out of the recipe's input"
            ) from None


def _rows_of_json(name: str, path: Path, limit: int) -> Iterator[Row]:
    """The rows of a JSON Lines file or of one JSON array. Blank lines are no rows, but count as lines."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    with pa.input_stream(path, compression=compression) as stream:
        chunks = _chunks(stream)
        first = next(chunks, b"").removeprefix(_BYTE_ORDER_MARK)
        all_chunks = itertools.chain([first], chunks)
        if _is_array(path, first, limit):
            pieces = json_rows.elements(all_chunks, limit)
        else:
            pieces = json_rows.lines(all_chunks, limit)
        for line, piece in enumerate(pieces, 1):
            if piece.reason or piece.raw.strip():
                yield _checked_row(name, line, piece)


def _chunks(stream: pa.NativeFile) -> Iterator[bytes]:
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
    with pa.input_stream(path, compression=COMPRESSIONS.get(path.suffix.lower())) as stream:
        chunks = _chunks(stream)
        first = next(chunks, b"").removeprefix(_BYTE_ORDER_MARK)
        try:
            for piece in json_rows.elements(itertools.chain([first], chunks), limit):
                is_object = piece.raw.lstrip().startswith(b"{")
                if not is_object or piece.reason not in (None, "over_long"):
                    return False
        except EOFError:
            return False
    return True


def _checked_row(name: str, line: int, piece: Piece) -> Row:
    """A row whose text is a JSON object, or a row with the reason why it is none."""
    text = piece.raw.strip().decode("utf-8", errors="backslashreplace")
    if piece.reason:
        return Row(name, line, text, piece.reason, piece.detail)
    try:
        value = orjson.loads(piece.raw)
    except orjson.JSONDecodeError as error:
        reason = _reason_of_json_error(piece.raw, str(error))
        not_finite = _not_finite_columns(text) if reason == "nan" else ()
        detail = _place_of_bad_utf8(piece.raw) or str(error)
        return Row(name, line, text, reason, detail, not_finite)
    if not isinstance(value, dict):
        detail = f"a row must be a JSON object, not {type(value).__name__}"
        return Row(name, line, text, "not_an_object", detail)
    return Row(name, line, text)


def _reason_of_json_error(raw: bytes, message: str) -> str:
    """The reason that a reject is counted under, from orjson's message and the row's bytes."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "bad_utf8"
    if "surrogate" in message:
        return "lone_surrogate"
    if "infinity" in message or re.search(rb"[:,\[]\s*(NaN|-?Infinity)\b", raw):
        return "nan"
    return "bad_json"


def _place_of_bad_utf8(raw: bytes) -> str | None:
    """Which byte of a row is the first that is not UTF-8; None where all are."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        bad = raw[error.start : error.start + 1].hex()
        return f"not UTF-8: byte {error.start + 1} of the row is 0x{bad}"
    return None


def _not_finite_columns(text: str) -> tuple[str, ...]:
    """The columns of a row that hold NaN or Infinity, as Python's JSON writes them.

    None where that is not all that is wrong with the row."""
    try:
        value = json.loads(text)
        names = tuple(name for name, inner in value.items() if not is_finite(inner))
        others = {name: inner for name, inner in value.items() if name not in names}
        orjson.loads(json.dumps(others))
    except (ValueError, AttributeError, RecursionError):
        return ()
    return names


def _rows_of_parquet(name: str, path: Path, limit: int) -> Iterator[Row]:
    line = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        twice = [column for column in names if names.count(column) > 1]
        if twice:
            raise UserError(
                f"{path} has several columns named {twice[0]}, and nobody can say which one counts: "
                "write it again with one of them, or take it out of prompts.source"
            )
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS_AT_ONCE):
            values: list[dict[str, object] | None]
            try:
                values = batch.to_pylist()
            except UnicodeDecodeError:
                # Some text is not UTF-8: each row is decoded by itself, so that only the bad one is refused.
                values = [None] * len(batch)
            for position, value in enumerate(values):
                line += 1
                yield _parquet_row(name, line, value, batch.slice(position, 1), limit)


def _parquet_row(
    name: str, line: int, value: dict[str, object] | None, batch: pa.RecordBatch, limit: int
) -> Row:
    """The one row of `batch` as JSON text, checked like any other. `value` is its content, if decoded yet."""
    try:
        if value is None:
            value = batch.to_pylist()[0]
        value = without_nulls(value)
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, default=_as_json)
        raw = text.encode()
    except UnicodeDecodeError as error:
        return Row(name, line, _escaped_texts(batch), "bad_utf8", str(error))
    except ValueError:
        text = json.dumps(value, ensure_ascii=False, default=_as_json)
        piece = json_rows.limited(text.encode(errors="surrogatepass"), len(text), limit)
        if piece.reason:
            return _checked_row(name, line, piece)
        detail = "a number that is NaN or infinite"
        return Row(name, line, text, "nan", detail, _not_finite_columns(text))
    return _checked_row(name, line, json_rows.limited(raw, len(raw), limit))


def _as_json(value: object) -> object:
    """A JSON value for one that JSON has no type for.

    Bytes become an object: in a column that no format reads they do no harm, and in one that is read they
    count as mistyped.
    """
    if isinstance(value, bytes):
        return {"bytes": value.decode(errors="backslashreplace")}
    return str(value)


def _escaped_texts(row: pa.RecordBatch) -> str:
    """The text columns of a row whose bytes are not UTF-8, as JSON; bad bytes are escaped."""
    texts: dict[str, str] = {}
    for field in row.schema:
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            value = row[field.name].cast(pa.large_binary())[0].as_py() or b""
            texts[field.name] = value.decode(errors="backslashreplace")
    return json.dumps(texts)
