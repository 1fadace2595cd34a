"""Parquet and Arrow files as rows of JSON text, a few hundred rows in memory at a time.

- Arrow is read in both of its forms: the IPC file, which pandas writes as Feather, and the IPC stream, which
  datasets writes. A stream without its end mark is damaged: nobody can say how many batches are missing.
- A value that is declared as JSON (datasets' type Json) is what that JSON says.
"""

import itertools
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine import json_rows, plain_columns
from engine.checked_rows import Row, checked_row, not_finite_columns
from engine.row_problem import of_error
from engine.turns import without_nulls
from schemas.errors import UserError

ARROW_SUFFIXES = (".arrow", ".feather")
_ROWS_AT_ONCE = 256
_IPC_FILE = b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"  # begins each message of a stream; those before Arrow 0.15 have none
_NOTHING_FOLLOWS = struct.pack("<i", 0)  # the length of the message behind the last one


def rows_of(name: str, path: Path, limit: int) -> Iterator[Row]:
    """The rows of a Parquet or an Arrow file, by its name.

    Raises UserError where two columns have one name, EOFError where an Arrow stream breaks off."""
    for batch in batches_of(name, path, limit):
        yield from batch.rows()


def batches_of(name: str, path: Path, limit: int) -> Iterator["ColumnBatch"]:
    """The rows of `rows_of`, many at a time."""
    line = 1
    record_batches = _parquet_batches(path) if path.suffix.lower() == ".parquet" else _arrow_batches(path)
    for record_batch in record_batches:
        yield ColumnBatch(name, line, record_batch, limit)
        line += len(record_batch)


def rows_of_batches(name: str, batches: Iterable[pa.RecordBatch], limit: int) -> Iterator[Row]:
    """The rows of some batches, numbered from 1; what cannot be read of them is a row with its reason."""
    line = 1
    for batch in batches:
        yield from ColumnBatch(name, line, batch, limit).rows()
        line += len(batch)


def _parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        _check_names(path, file.schema_arrow)
        yield from file.iter_batches(batch_size=_ROWS_AT_ONCE)


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as file:
        head = file.read(len(_IPC_FILE))
        file.seek(0)
        if head == _IPC_FILE:
            with pa.ipc.open_file(file) as reader:
                _check_names(path, reader.schema)
                batches = map(reader.get_batch, range(reader.num_record_batches))
                yield from small(batches)
        else:
            with pa.ipc.open_stream(file) as reader:
                _check_names(path, reader.schema)
                yield from small(reader)
            _check_end(file, head)


def _check_end(file: pa.MemoryMappedFile, head: bytes) -> None:
    """Raise EOFError where a stream that was read does not end in the mark of its end."""
    mark = _NOTHING_FOLLOWS
    if head.startswith(_CONTINUATION):
        mark = _CONTINUATION + _NOTHING_FOLLOWS
    end = file.tell()
    file.seek(max(0, end - len(mark)))
    if file.read(len(mark)) != mark:
        raise EOFError("the Arrow stream has no end mark, so batches may be missing")
    if file.tell() < file.size():
        raise EOFError(f"{file.size() - end} bytes follow the end of the Arrow stream")


def _check_names(path: Path, schema: pa.Schema) -> None:
    """Raise UserError where a name stands twice."""
    twice = [column for column in schema.names if schema.names.count(column) > 1]
    if twice:
        raise UserError(
            f"{path} has several columns named {twice[0]}, and nobody can say which one counts: "
            "write it again with one of them, or take it out of prompts.source"
        )


def small(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of few rows, each checked: a damaged one would crash the process where it is read."""
    for batch in batches:
        for column in batch.columns:
            # As bytes, since text that is not UTF-8 is the fault of its row alone.
            column.view(_with_bytes(column.type)).validate(full=True)
        for begin in range(0, len(batch), _ROWS_AT_ONCE):
            yield batch.slice(begin, _ROWS_AT_ONCE)


def _with_bytes(kind: pa.DataType) -> pa.DataType:
    """A type with bytes in the place of text."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_bytes(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_with_bytes(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_with_bytes(kind.value_type)))
    return kind


class ColumnBatch:
    """Rows of a Parquet or an Arrow file (engine/raw_batches.py)."""

    def __init__(self, file: str, first_line: int, batch: pa.RecordBatch, limit: int) -> None:
        self.file = file
        self.lines = range(first_line, first_line + len(batch))
        self._batch = batch
        self._limit = limit
        self._all_values: list[dict[str, object] | None] | None = None

    def values(self) -> Iterator[dict[str, Any] | None]:
        """None for all of them where a column is of another kind than plain rows have, or may be damaged."""
        values = None
        if plain_columns.fits(self._batch, self._limit):
            values = plain_columns.values_of(self._batch)
        return iter(values) if values is not None else itertools.repeat(None, len(self._batch))

    def says_once(self, place: int, values: dict[str, Any]) -> bool:
        """Whether no text has NUL in it; a column is there only once."""
        return not plain_columns.has_nul(values)

    def row(self, place: int) -> Row:
        if self._all_values is None:
            self._all_values = self._decoded()
        value = self._all_values[place]
        return _row_of(self.file, self.lines[place], value, self._batch.slice(place, 1), self._limit)

    def rows(self) -> Iterator[Row]:
        """All of them."""
        return map(self.row, range(len(self._batch)))

    def _decoded(self) -> list[dict[str, object] | None]:
        try:
            return list(_values(self._batch))
        except Exception:
            # A text that is not UTF-8, a date that Python does not have: each row is decoded by itself, so
            # that only the bad one is refused.
            return [None] * len(self._batch)


def _values(batch: pa.RecordBatch) -> list[dict[str, object]]:
    """The rows of a batch as Python values. Raises UnicodeDecodeError."""
    values: list[dict[str, object]] = batch.to_pylist()
    for field in batch.schema:
        if _holds_json(field.type):
            for value in values:
                value[field.name] = _decoded(value[field.name], field.type)
    return values


def _holds_json(kind: pa.DataType) -> bool:
    """Whether values of a type are JSON, or hold some."""
    if isinstance(kind, pa.JsonType):
        return True
    if pa.types.is_nested(kind):
        return any(_holds_json(kind.field(place).type) for place in range(kind.num_fields))
    return False


def _decoded(value: Any, kind: pa.DataType) -> Any:
    """A value with the JSON in it taken apart; what is no JSON stays text."""
    if value is None or not _holds_json(kind):
        return value
    if isinstance(kind, pa.JsonType):
        try:
            return json.loads(value)
        except ValueError:
            return value
    if pa.types.is_struct(kind):
        return {field.name: _decoded(value[field.name], field.type) for field in kind}
    if isinstance(value, list) and kind.num_fields == 1:
        return [_decoded(item, kind.field(0).type) for item in value]
    return value


def _row_of(
    name: str,
    line: int,
    value: dict[str, object] | None,
    batch: pa.RecordBatch,
    limit: int,
) -> Row:
    """The one row of `batch` as JSON text, checked like any other. `value` is its content, if decoded yet."""
    try:
        if value is None:
            (value,) = _values(batch)
    except UnicodeDecodeError as error:
        return Row(name, line, _escaped_texts(batch), "bad_utf8", str(error))
    except Exception as error:
        return Row(name, line, _escaped_texts(batch), "unreadable", _unreadable(batch, error))
    try:
        value = without_nulls(value)
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, default=_as_json)
        raw = text.encode()
    except ValueError:
        text = json.dumps(value, ensure_ascii=False, default=_as_json)
        piece = json_rows.limited(text.encode(errors="surrogatepass"), len(text), limit)
        if piece.reason:
            return checked_row(name, line, piece)
        detail = "a number that is NaN or infinite"
        return Row(name, line, text, "nan", detail, not_finite_columns(text))
    return checked_row(name, line, json_rows.limited(raw, len(raw), limit))


def _unreadable(row: pa.RecordBatch, error: Exception) -> str:
    """Why a row cannot be read, with the first column that cannot."""
    problem = of_error(error).sentence
    for field in row.schema:
        try:
            row[field.name].to_pylist()
        except Exception as of_column:
            return f"{field.name}, of type {field.type}: {of_error(of_column).sentence}"
    return problem


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
