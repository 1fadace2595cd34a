"""Read any raw file into rows of JSON text, in constant memory. What cannot be read is a row with its reason.

- Files: JSON Lines, JSON arrays and Parquet; gzip, zstd and bz2.
- A row is validated here, once and strictly: orjson refuses what Arrow would later fail on for a whole batch.
- A row stays text: the SQL of a format takes it apart (engine/formats.py).
- A file that breaks off inside its compression, or whose Parquet footer is damaged, stops the run, since
  nobody can say which rows it lost.
"""

import glob
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from engine import json_rows
from engine.json_rows import Piece
from schemas.errors import UserError
from schemas.manifest import PLAN

_KNOWN_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
_COMPRESSION_SUFFIXES = (".gz", ".zst", ".bz2")
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


def find(sources: Iterable[str]) -> dict[str, Path]:
    """The input files, in a fixed order, by their names: the paths below the folder that all of them share.

    A source is a file, a folder or a glob. Raises UserError if there is nothing to read at one of them.
    """
    paths: list[Path] = []
    for source in sources:
        matches = _files_at(source)
        if not matches:
            known = ", ".join(_KNOWN_SUFFIXES)
            compressed = ", ".join(_COMPRESSION_SUFFIXES)
            raise UserError(
                f"prompts.source: nothing to read at {source}; "
                f"expected a file, a folder or a glob of {known} (also {compressed})"
            )
        for path in matches:
            if path not in paths:
                paths.append(path)
    if not paths:
        raise UserError("the recipe names no input: set source in [prompts] to a file, a folder or a glob")
    shared_folder = os.path.commonpath([path.parent for path in paths])
    return {os.path.relpath(path, shared_folder): path for path in paths}


def _files_at(source: str) -> list[Path]:
    """The files that one source names: a file or a glob of any suffix, or the readable files of a folder."""
    if os.path.isdir(source):
        return _files_below(Path(source))
    if os.path.isfile(source):
        return [Path(source)]
    matches: list[Path] = []
    for path in glob.glob(source, recursive=True):
        if os.path.isfile(path):
            matches.append(Path(path))
    return sorted(matches)


def _files_below(folder: Path) -> list[Path]:
    """The readable files of a folder and its sub-folders, without hidden ones and run folders of ours."""
    files: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            is_run = (path / PLAN).exists()
            if not is_run:
                files += _files_below(path)
        elif _uncompressed_name(path).endswith(_KNOWN_SUFFIXES):
            files.append(path)
    return files


def _uncompressed_name(path: Path) -> str:
    """The file's name without the suffix of its compression."""
    if path.suffix in _COMPRESSION_SUFFIXES:
        return path.name.removesuffix(path.suffix)
    return path.name


def estimated_bytes(path: Path) -> int:
    """Size of the file's rows as JSON text, guessed from its size on disk: what shards are counted by."""
    size = path.stat().st_size
    if path.suffix in _COMPRESSION_SUFFIXES or path.suffix == ".parquet":
        return size * 4
    return size


def rows(files: dict[str, Path], max_row_bytes: int) -> Iterator[Row]:
    """All rows of all files, including those that cannot be read. Raises UserError if a file is damaged."""
    for name, path in files.items():
        if path.suffix == ".parquet":
            rows_of_file = _rows_of_parquet(name, path, max_row_bytes)
        else:
            rows_of_file = _rows_of_json(name, path, max_row_bytes)
        try:
            yield from rows_of_file
        except (OSError, pa.ArrowException, EOFError) as error:
            raise UserError(
                f"{path} breaks off or is damaged ({str(error).strip()}): "
                "copy it again, or take it out of prompts.source"
            ) from None


def _rows_of_json(name: str, path: Path, limit: int) -> Iterator[Row]:
    """The rows of a JSON Lines file or of one JSON array. Blank lines are no rows, but count as lines."""
    with pa.input_stream(path, compression="detect") as stream:
        chunks = _chunks(stream)
        first = next(chunks, b"").removeprefix(_BYTE_ORDER_MARK)
        all_chunks = itertools.chain([first], chunks)
        if _is_array(path, first):
            pieces = json_rows.elements(all_chunks, limit)
        else:
            pieces = json_rows.lines(all_chunks, limit)
        for line, piece in enumerate(pieces, 1):
            if piece.reason or piece.raw.strip():
                yield _checked_row(name, line, piece)


def _chunks(stream: pa.NativeFile) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def _is_array(path: Path, first_chunk: bytes) -> bool:
    """True if the file is one JSON array, judged by its name and its beginning.

    A file of JSON Lines whose first line is in brackets is none: its other lines must not be hidden.
    """
    if _uncompressed_name(path).endswith((".jsonl", ".ndjson")):
        return False
    text = first_chunk.lstrip()
    if not text.startswith(b"["):
        return False
    first_line, _, rest = text.partition(b"\n")
    try:
        orjson.loads(first_line)
    except orjson.JSONDecodeError:
        return True  # the array spans several lines or chunks
    return not rest.strip()


def _checked_row(name: str, line: int, piece: Piece) -> Row:
    """A row whose text is a JSON object, or a row with the reason why it is none."""
    text = piece.raw.strip().decode("utf-8", errors="backslashreplace")
    if piece.reason:
        return Row(name, line, text, piece.reason, piece.detail)
    try:
        value = orjson.loads(piece.raw)
    except orjson.JSONDecodeError as error:
        return Row(name, line, text, _reason_of_json_error(piece.raw, str(error)), str(error))
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


def _rows_of_parquet(name: str, path: Path, limit: int) -> Iterator[Row]:
    line = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
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
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, default=_as_json)
        raw = text.encode()
    except UnicodeDecodeError as error:
        return Row(name, line, _escaped_texts(batch), "bad_utf8", str(error))
    except ValueError:
        text = json.dumps(value, ensure_ascii=False, default=_as_json)
        return Row(name, line, text, "nan", "a number that is NaN or infinite")
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
