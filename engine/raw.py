"""Any raw file to rows of JSON text, in constant memory; what cannot be read becomes a row with its reason.

JSON Lines, JSON arrays and Parquet; gzip, zstd and bz2. A row is validated here once, strictly (orjson refuses what Arrow would later choke
on for a whole batch), and stays text: the SQL of a format takes it apart. A file that breaks off inside its compression or whose Parquet
footer is damaged stops the run, since nobody can say which rows it lost.
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

from schemas.errors import UserError

_KNOWN = (".jsonl", ".ndjson", ".json", ".parquet")
_COMPRESSED = (".gz", ".zst", ".bz2")
_CHUNK = 1 << 20
_KEEP_RAW = 4096  # characters of an over-long row kept in rejects


@dataclass(frozen=True, slots=True)
class Row:
    """One input row: `text` is a JSON object; or `reason` says why it is none, with what was read in `text`."""

    file: str
    line: int
    text: str
    reason: str | None = None
    detail: str | None = None


def find(sources: Iterable[str]) -> dict[str, Path]:
    """Files of files, folders and globs, in a fixed order, by their name below what they have in common."""
    paths: list[Path] = []
    for source in sources:
        if os.path.isdir(source):
            found = _below(Path(source))
        else:
            found = (
                [Path(source)]
                if os.path.isfile(source)
                else sorted(Path(path) for path in glob.glob(source, recursive=True) if os.path.isfile(path))
            )
        if not found:
            raise UserError(
                f"prompts.source: nothing to read at {source}; expected a file, a folder or a glob of {', '.join(_KNOWN)} (also {', '.join(_COMPRESSED)})"
            )
        paths += [path for path in found if path not in paths]
    if not paths:
        raise UserError("the recipe names no input: set source in [prompts] to a file, a folder or a glob")
    top = os.path.commonpath([path.parent for path in paths])
    return {os.path.relpath(path, top): path for path in paths}


def _below(folder: Path) -> list[Path]:
    """The readable files of a folder and those in it, hidden ones and run folders of ours left out."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found += [] if (path / "plan.json").exists() else _below(path)
        elif _inner(path).endswith(_KNOWN):
            found.append(path)
    return found


def _inner(path: Path) -> str:
    """The file's name less the suffix of its compression."""
    return path.name.removesuffix(path.suffix) if path.suffix in _COMPRESSED else path.name


def estimated_bytes(path: Path) -> int:
    """Size of the file's rows as JSON text, guessed from its size on disk: what shards are counted by."""
    packed = path.suffix in _COMPRESSED or path.suffix == ".parquet"
    return path.stat().st_size * (4 if packed else 1)


def rows(files: dict[str, Path], max_row_bytes: int) -> Iterator[Row]:
    """All rows of all files, the unreadable ones included."""
    for name, path in files.items():
        try:
            if path.suffix == ".parquet":
                yield from _parquet(name, path, max_row_bytes)
            else:
                with pa.input_stream(path, compression="detect") as stream:
                    yield from _json_rows(
                        path, name, iter(lambda stream=stream: stream.read(_CHUNK), b""), max_row_bytes
                    )
        except (OSError, pa.ArrowException, EOFError) as error:
            raise UserError(
                f"{path} breaks off or is damaged ({str(error).strip()}): copy it again, or take it out of prompts.source"
            ) from None


def _json_rows(path: Path, name: str, chunks: Iterator[bytes], limit: int) -> Iterator[Row]:
    first = next(chunks, b"").removeprefix(b"\xef\xbb\xbf")
    chunks = itertools.chain([first], chunks)
    pieces = _elements(chunks, limit) if _is_array(path, first) else _lines(chunks, limit)
    for line, (raw, complaint) in enumerate(pieces, 1):
        if complaint or raw.strip():
            yield _checked(name, line, raw, complaint)


def _is_array(path: Path, first: bytes) -> bool:
    """Whether the file is one JSON array: by its name, and by its first byte; a bracketed first line of JSON Lines must not hide the others."""
    if _inner(path).endswith((".jsonl", ".ndjson")) or first.lstrip()[:1] != b"[":
        return False
    line, _, rest = first.lstrip().partition(b"\n")
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return True
    return not rest.strip()


def _lines(chunks: Iterator[bytes], limit: int) -> Iterator[tuple[bytes, str | None]]:
    """Lines split at b"\\n" only (text may hold U+2028), the over-long ones cut off with a complaint."""
    start, length = b"", 0  # of the line in progress; no more than `limit` bytes of it are kept
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            yield _sized(start + piece[: limit + 1], length + len(piece), limit)
            start, length = b"", 0
        start, length = start + rest[: max(0, limit + 1 - length)], length + len(rest)
    if length:
        yield _sized(start, length, limit)


def _sized(raw: bytes, length: int, limit: int) -> tuple[bytes, str | None]:
    return (
        (raw, None)
        if length <= limit
        else (raw[:_KEEP_RAW], f"{length} bytes, more than prompts.max_row_bytes = {limit}")
    )


_OUTSIDE = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'["\\]')


def _elements(chunks: Iterator[bytes], limit: int) -> Iterator[tuple[bytes, str | None]]:
    """Elements of one JSON array, found by brackets and quotes alone, so that a bad element does not hide those after it."""
    depth, quoted, escaped, kept, length = 0, False, False, b"", 0
    for chunk in chunks:
        at = begin = 0
        while at < len(chunk):
            if escaped:
                escaped, at = False, at + 1
                continue
            match = (_INSIDE if quoted else _OUTSIDE).search(chunk, at)
            if not match:
                break
            at, mark = match.end(), match[0]
            if mark == b"\\":
                escaped = True
            elif mark == b'"':
                quoted = not quoted
            elif mark in b"[{":
                depth += 1
                begin = at if depth == 1 else begin
            elif mark in b"]}" or depth == 1:
                depth -= mark != b","
                if depth == 0 or (depth == 1 and mark == b","):
                    piece = chunk[begin : at - 1]
                    length += len(piece)
                    if (length and (kept + piece).strip()) or mark == b",":
                        yield _sized(kept + piece[: limit + 1], length, limit)
                    kept, length, begin = b"", 0, at
        if depth:
            kept, length = kept + chunk[begin:][: max(0, limit + 1 - length)], length + len(chunk) - begin
        elif chunk[begin:].strip():
            yield chunk[begin:][:_KEEP_RAW], "text after the end of the JSON array"
    if depth:
        # Cut off, or a quote too many or too few: how many rows lie behind it nobody can say.
        raise EOFError(
            f"its JSON array has no end; the last element begins with {kept.strip()[:80].decode(errors='backslashreplace')!r}"
        )


def _checked(name: str, line: int, raw: bytes, complaint: str | None) -> Row:
    text = raw.strip().decode("utf-8", errors="backslashreplace")
    if complaint:
        return Row(name, line, text, "over_long" if "max_row_bytes" in complaint else "bad_json", complaint)
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return Row(name, line, text, _why(raw, str(error)), str(error))
    if not isinstance(value, dict):
        return Row(
            name, line, text, "not_an_object", f"a row must be a JSON object, not {type(value).__name__}"
        )
    return Row(name, line, text)


def _why(raw: bytes, message: str) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "bad_utf8"
    if "surrogate" in message:
        return "lone_surrogate"
    return "nan" if "infinity" in message or re.search(rb"[:,\[]\s*(NaN|-?Infinity)\b", raw) else "bad_json"


def _parquet(name: str, path: Path, limit: int) -> Iterator[Row]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        line = 0
        for batch in file.iter_batches(batch_size=256):
            try:
                values = batch.to_pylist()
            except UnicodeDecodeError:  # somewhere in it: row by row, then
                values = [None] * len(batch)
            for row, value in enumerate(values):
                line += 1
                yield _parquet_row(name, line, value, batch.slice(row, 1), limit)


def _parquet_row(name: str, line: int, value: dict | None, row: pa.RecordBatch, limit: int) -> Row:
    try:
        value = value or row.to_pylist()[0]
        raw = json.dumps(value, allow_nan=False, ensure_ascii=False, default=_as_json).encode()
    except UnicodeDecodeError as error:
        return Row(name, line, _escaped(row), "bad_utf8", str(error))
    except ValueError:
        return Row(
            name,
            line,
            json.dumps(value, ensure_ascii=False, default=_as_json),
            "nan",
            "a number that is NaN or infinite",
        )
    return _checked(name, line, *_sized(raw, len(raw), limit))


def _as_json(value: object) -> object:
    # Bytes are no text: as an object they can stand in a column nobody asks for, and are mistyped in one that is read.
    return {"bytes": value.decode(errors="backslashreplace")} if isinstance(value, bytes) else str(value)


def _escaped(row: pa.RecordBatch) -> str:
    """The text columns of a row whose bytes are no UTF-8."""
    texts = {
        field.name: row[field.name]
        for field in row.schema
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    }
    return json.dumps(
        {
            column: (values.cast(pa.large_binary())[0].as_py() or b"").decode(errors="backslashreplace")
            for column, values in texts.items()
        }
    )
