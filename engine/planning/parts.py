"""The parts of an input that can be read by themselves: blocks of text files, tiles of columnar ones, and the
beginnings of files that can only be read from their beginning (compressed ones, one JSON array).

A pool holds the parts of one kind. `draw` takes parts at even distances, from a start that the seed settles,
so each row of the pool has the same chance, and `weight` says how many rows each of those drawn stands for.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from engine import columnar_rows, csv_rows, json_rows, raw
from engine.checked_rows import Row, checked_row
from engine.planning.blocks import blocks_of, rows_in_block

TILE = 32  # rows of a columnar file that are drawn together
_MOST_BLOCKS = 2048
_LEAST_BLOCKS = 32
_PILOT_BLOCKS = 8
_DECODED = 128 << 20  # bytes of one row group that are decoded on the way to the tiles drawn
_HEAD = 16 << 20  # bytes of text that are read of what has a beginning alone
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class File:
    """A file of the input by its name there; `text_bytes`: of its rows, about."""

    name: str
    path: Path
    text_bytes: float


@dataclass(frozen=True)
class Drawn:
    """Rows drawn of a pool, with the part that each is from. `weight`: rows that each of them stands for."""

    rows: list[Row]
    parts: list[int]
    weight: float


class Pool(Protocol):
    """Parts of one kind."""

    @property
    def files(self) -> Sequence[File]:
        """The files that they are of."""
        ...

    def draw(self, wanted: int, start: float, limit: int) -> Drawn:
        """About `wanted` rows, at least one part; `start` in [0, 1), `limit`: prompts.max_row_bytes."""
        ...


def evenly(parts: int, wanted: int, start: float) -> list[int]:
    """`wanted` of the numbers below `parts` at even distances; each has the same chance over all starts."""
    wanted = min(wanted, parts)
    return [math.floor((place + start) * parts / wanted) for place in range(wanted)]


@dataclass(frozen=True)
class TextPool:
    """Lines of text files, by the blocks in which they begin. `header`: of tables, by the file's name."""

    files: Sequence[File]
    headers: dict[str, bytes]

    def draw(self, wanted: int, start: float, limit: int) -> Drawn:
        """A first look at a few blocks says how many of them hold so many rows."""
        blocks = [blocks_of(file.path.stat().st_size) for file in self.files]
        total = sum(blocks)
        pilot = evenly(total, _PILOT_BLOCKS, start)
        in_a_block = sum(len(self._rows(blocks, number, limit)) for number in pilot) / len(pilot)
        number_wanted = math.ceil(wanted / in_a_block) if in_a_block else _MOST_BLOCKS
        count = min(total, max(_LEAST_BLOCKS, min(number_wanted, _MOST_BLOCKS)))
        rows: list[Row] = []
        parts: list[int] = []
        for number in evenly(total, count, start):
            found = self._rows(blocks, number, limit)
            rows.extend(found)
            parts.extend([number] * len(found))
        return Drawn(rows, parts, total / count)

    def _rows(self, blocks: Sequence[int], number: int, limit: int) -> list[Row]:
        """The rows of a block by its number among the blocks of all files."""
        for file, count in zip(self.files, blocks, strict=True):
            if number < count:
                return self._rows_of(file, number, limit)
            number -= count
        raise AssertionError("a block that no file has")

    def _rows_of(self, file: File, block: int, limit: int) -> list[Row]:
        data = rows_in_block(file.path, block, limit)
        if block == 0:
            data = data.removeprefix(_BYTE_ORDER_MARK)
        header = self.headers.get(file.name)
        if header is not None:
            delimiter = csv_rows.delimiter_of(file.path.name.lower())
            assert delimiter is not None
            text = data if block == 0 else header + data
            return list(csv_rows.rows(file.name, file.path, iter([text]), delimiter, limit))
        rows: list[Row] = []
        for line, piece in enumerate(json_rows.lines(iter([data]), limit), 1):
            if piece.reason or piece.raw.strip():
                rows.append(checked_row(file.name, line, piece))
        return rows


@dataclass(frozen=True)
class _Group:
    """A row group of Parquet, or a batch of Arrow: rows that are stored together."""

    file: File
    number: int
    rows: int


@dataclass(frozen=True)
class ColumnarPool:
    """Rows of Parquet and Arrow files, by tiles of a few rows that follow one another."""

    files: Sequence[File]

    def draw(self, wanted: int, start: float, limit: int) -> Drawn:
        """Tiles at even distances over all groups of all files; how many rows there are is written there."""
        groups: list[_Group] = []
        for file in self.files:
            groups.extend(_groups_of(file))
        tiles = [-(-group.rows // TILE) for group in groups]
        total = sum(tiles)
        if not total:
            return Drawn([], [], 1.0)
        count = min(total, max(1, math.ceil(wanted / TILE)))
        by_group: dict[int, list[int]] = {}
        group = 0
        before = 0
        for number in evenly(total, count, start):
            while number >= before + tiles[group]:
                before += tiles[group]
                group += 1
            by_group.setdefault(group, []).append(number - before)
        rows: list[Row] = []
        parts: list[int] = []
        for group, chosen in by_group.items():
            for tile, batch in _tiles(groups[group], chosen):
                found = list(columnar_rows.rows_of_batches(groups[group].file.name, iter([batch]), limit))
                rows.extend(found)
                parts.extend([sum(tiles[:group]) + tile] * len(found))
        everything = sum(one.rows for one in groups)
        return Drawn(rows, parts, everything / max(1, len(rows)))


def _groups_of(file: File) -> Iterator[_Group]:
    """The groups of a file, of which only the metadata are read."""
    if file.path.suffix.lower() == ".parquet":
        with pq.ParquetFile(file.path) as opened:
            for number in range(opened.metadata.num_row_groups):
                yield _Group(file, number, opened.metadata.row_group(number).num_rows)
        return
    for number, batch in enumerate(_arrow_batches(file.path)):
        yield _Group(file, number, len(batch))


def _arrow_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow file or stream, in memory that is the file."""
    with pa.memory_map(str(path)) as mapped:
        try:
            with pa.ipc.open_file(mapped) as reader:
                yield from map(reader.get_batch, range(reader.num_record_batches))
                return
        except pa.ArrowInvalid:
            mapped.seek(0)
        with pa.ipc.open_stream(mapped) as stream:
            yield from stream


def _tiles(group: _Group, chosen: Sequence[int]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The tiles chosen of a group, in parts where they lie so. What would take too much to get at is left."""
    last = (max(chosen) + 1) * TILE
    begin = 0
    for batch in _batches_of(group):
        for tile in chosen:
            first = max(tile * TILE - begin, 0)
            end = min((tile + 1) * TILE - begin, len(batch))
            if first < end:
                part = batch.slice(first, end - first)
                yield from ((tile, small) for small in columnar_rows.small(iter([part])))
        begin += len(batch)
        if begin >= last:
            return


def _batches_of(group: _Group) -> Iterator[pa.RecordBatch]:
    path = group.file.path
    if path.suffix.lower() != ".parquet":
        for number, batch in enumerate(_arrow_batches(path)):
            if number == group.number:
                yield batch
                return
    with pq.ParquetFile(path, page_checksum_verification=True) as opened:
        decoded = 0
        for batch in opened.iter_batches(batch_size=8 * TILE, row_groups=[group.number]):
            yield batch
            decoded += batch.nbytes
            if decoded > _DECODED:
                return


@dataclass(frozen=True)
class HeadPool:
    """Files that can be read from their beginning alone: so much of each as is its share."""

    files: Sequence[File]

    def draw(self, wanted: int, start: float, limit: int) -> Drawn:
        """The first rows of each file, and how many more there are by the bytes that are not read."""
        total = sum(file.text_bytes for file in self.files)
        rows: list[Row] = []
        parts: list[int] = []
        read = 0
        left = 0.0
        for part, file in enumerate(self.files):
            share = file.text_bytes / max(1.0, total)
            of_file, is_all = _beginning(file, limit, share * _HEAD, math.ceil(share * wanted))
            rows.extend(of_file)
            parts.extend([part] * len(of_file))
            size = sum(map(_size, of_file))
            read += size
            left += 0.0 if is_all else max(0.0, file.text_bytes - size)
        return Drawn(rows, parts, (read + left) / read if read else 1.0)


def _beginning(file: File, limit: int, most_bytes: float, most_rows: int) -> tuple[list[Row], bool]:
    """The first rows of a file, and whether these are all."""
    rows: list[Row] = []
    size = 0
    for row in raw.rows({file.name: file.path}, limit):
        if rows and (size >= most_bytes or len(rows) >= most_rows):
            return rows, False
        rows.append(row)
        size += _size(row)
    return rows, True


def _size(row: Row) -> int:
    """The bytes that a row has in its file: those of a table's row have no names there."""
    is_table = csv_rows.delimiter_of(row.file.lower().removesuffix(".gz").removesuffix(".zst"))
    if is_table and row.reason is None:
        cells = orjson.loads(row.text).values()
        return sum(len(cell or "") + 1 for cell in cells)
    return len(row.text.encode(errors="surrogatepass")) + 1
