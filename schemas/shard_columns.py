"""The markers of many shards as columns: what a manifest and a block hold.

Ten thousand markers are a few lists here, which JSON reads in milliseconds, and not a hundred thousand
objects. A marker is built when it is asked for. What can be told from a shard's number is not kept: the names
of its files and of its marker. With each marker stand its digest, so that what was made of a shard is
compared without building it, and its size in bytes, so that a listing shows a marker that was changed.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate
from typing import Any, overload

from schemas.markers import File, Marker, file_name
from schemas.shapes import ShapeError, shaped

_HEX = re.compile("[0-9a-f]*")


@dataclass(frozen=True)
class ShardColumns(Sequence[Marker]):
    """Markers in order of their shards' numbers; a sequence of them.

    A value for each marker: `numbers`, `digests`, `sizes` of its JSON in bytes, `layout`: its place in
    `layouts`, which say of what tables it has files, in their order. A value for each file, marker after
    marker: `rows`, `sha256`, `file_sizes`. `made_from`: stage -> a digest for each marker; `counts`:
    name -> a count for each; None in both where a marker has none."""

    numbers: list[int]
    digests: list[str]
    sizes: list[int]
    layouts: list[list[str]]
    layout: list[int]
    rows: list[int]
    sha256: list[str]
    file_sizes: list[int | None]
    made_from: dict[str, list[str | None]]
    counts: dict[str, list[int | None]]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> Marker: ...

    @overload
    def __getitem__(self, place: slice) -> list[Marker]: ...

    def __getitem__(self, place: int | slice) -> Marker | list[Marker]:
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        if place < 0:
            place += len(self)
        made_from = {stage: digests[place] for stage, digests in self.made_from.items()}
        counts = {name: numbers[place] for name, numbers in self.counts.items()}
        return Marker(
            shard=self.numbers[place],
            files=self.files(place),
            made_from={stage: digest for stage, digest in made_from.items() if digest is not None},
            counts={name: count for name, count in counts.items() if count is not None},
        )

    @cached_property
    def _begins(self) -> list[int]:
        """For each marker the place of its first file."""
        lengths = [len(tables) for tables in self.layouts]
        return list(accumulate((lengths[layout] for layout in self.layout), initial=0))

    def files(self, place: int) -> tuple[File, ...]:
        """The files of a marker."""
        return tuple(map(self.file, range(self._begins[place], self._begins[place + 1])))

    def file(self, at: int) -> File:
        """One of all files, by its place among them."""
        marker = bisect_right(self._begins, at) - 1
        table = self.layouts[self.layout[marker]][at - self._begins[marker]]
        name = file_name(self.numbers[marker], table)
        return File(name, table, self.rows[at], self.sha256[at], self.file_sizes[at])

    def marker_names(self) -> list[str]:
        """The names of all markers."""
        return [f"{number:05d}.json" for number in self.numbers]

    def file_names(self) -> list[str]:
        """The names of all files, marker after marker."""
        names: list[str] = []
        for number, layout in zip(self.numbers, self.layout, strict=True):
            shard = f"{number:05d}"
            for table in self.layouts[layout]:
                names.append(f"{shard}.{table}.parquet")
        return names

    def places_of(self, tables: frozenset[str]) -> list[int]:
        """The places, among all files, of those that hold rows of these tables."""
        places: list[int] = []
        holding: list[list[int]] = []
        for own in self.layouts:
            holding.append([at for at, table in enumerate(own) if table in tables])
        for begin, layout in zip(self._begins, self.layout, strict=False):
            for at in holding[layout]:
                places.append(begin + at)
        return places

    def rows_by_table(self) -> Counter[str]:
        """How many rows of each table all shards have."""
        rows: Counter[str] = Counter()
        at = 0
        for layout in self.layout:
            for table in self.layouts[layout]:
                rows[table] += self.rows[at]
                at += 1
        return rows

    def totals(self) -> dict[str, int]:
        """Name -> the sum of what the shards counted under it."""
        totals: dict[str, int] = {}
        for name, numbers in self.counts.items():
            totals[name] = sum(number for number in numbers if number is not None)
        return totals

    def without(self, shards: Collection[int]) -> "ShardColumns":
        """The columns without some shards."""
        if not shards:
            return self
        kept: list[tuple[Marker, int]] = []
        for place, shard in enumerate(self.numbers):
            if shard not in shards:
                kept.append((self[place], self.sizes[place]))
        return columns_of(kept)

    def as_json(self) -> dict[str, Any]:
        """The columns as they are written."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def columns_of(markers: Iterable[tuple[Marker, int]]) -> ShardColumns:
    """Markers, each with the size of its JSON, as columns in order of their numbers."""
    ordered = sorted(markers, key=lambda item: item[0].shard)
    columns = ShardColumns([], [], [], [], [], [], [], [], {}, {})
    places: dict[tuple[str, ...], int] = {}
    for place, (marker, size) in enumerate(ordered):
        columns.numbers.append(marker.shard)
        columns.digests.append(marker.digest)
        columns.sizes.append(size)
        tables = tuple(file.table for file in marker.files)
        columns.layout.append(places.setdefault(tables, len(places)))
        for file in marker.files:
            columns.rows.append(file.rows)
            columns.sha256.append(file.sha256)
            columns.file_sizes.append(file.size)
        for stage, digest in marker.made_from.items():
            _put(columns.made_from, stage, place, digest)
        for name, count in marker.counts.items():
            _put(columns.counts, name, place, count)
    columns.layouts.extend(list(tables) for tables in places)
    _fill_up(columns)
    return columns


def _put(columns: dict[str, list[Any]], name: str, place: int, value: object) -> None:
    """Append a value to a column; the rows before that have none get None."""
    column = columns.setdefault(name, [])
    column.extend([None] * (place - len(column)))
    column.append(value)


def _fill_up(columns: ShardColumns) -> None:
    """None at the end of the columns of which the last markers have no value."""
    for named in (columns.made_from, columns.counts):
        for column in named.values():
            column.extend([None] * (len(columns) - len(column)))


def joined(parts: Sequence[ShardColumns]) -> ShardColumns:
    """Columns one after another; their shards follow each other."""
    if len(parts) == 1:
        return parts[0]
    whole = columns_of([])
    places: dict[tuple[str, ...], int] = {}
    for part in parts:
        before = len(whole)
        own = [places.setdefault(tuple(tables), len(places)) for tables in part.layouts]
        whole.layout.extend([own[layout] for layout in part.layout])
        for name in ("numbers", "digests", "sizes", "rows", "sha256", "file_sizes"):
            getattr(whole, name).extend(getattr(part, name))
        _append(whole.made_from, part.made_from, before)
        _append(whole.counts, part.counts, before)
    whole.layouts.extend(list(tables) for tables in places)
    _fill_up(whole)
    return whole


def _append(whole: dict[str, list[Any]], part: dict[str, list[Any]], before: int) -> None:
    """Append a part's columns to those of the whole, which had so many rows before."""
    for name, column in part.items():
        own = whole.setdefault(name, [])
        own.extend([None] * (before - len(own)))
        own.extend(column)


def columns_from(value: object) -> ShardColumns:
    """What `as_json` gave. Raises ShapeError where it is not of that shape."""
    columns = shaped(_Loose, value)
    read = ShardColumns(**{field.name: getattr(columns, field.name) for field in fields(columns)})
    _check(read)
    return read


@dataclass(frozen=True)
class _Loose:
    """The columns as `shaped` sees them: it looks at no item of a long list, `_check` does at once."""

    numbers: Any
    digests: Any
    sizes: Any
    layouts: Any
    layout: Any
    rows: Any
    sha256: Any
    file_sizes: Any
    made_from: dict[str, Any]
    counts: dict[str, Any]


def _check(columns: ShardColumns) -> None:
    """Raise ShapeError unless every column has its length and its kind of values."""
    from schemas.tables import TABLES

    _check_list(columns.numbers, "numbers", int)
    count = len(columns.numbers)
    if sorted(set(columns.numbers)) != columns.numbers:
        raise ShapeError("it lists a shard twice, or out of order")
    _check_list(columns.digests, "digests", str, count)
    _check_list(columns.sizes, "sizes", int, count)
    _check_list(columns.layout, "layout", int, count)
    _check_list(columns.layouts, "layouts", list)
    for tables in columns.layouts:
        if not all(isinstance(table, str) and table in TABLES for table in tables):
            raise ShapeError(f"layouts names {ascii(tables)[:80]}, which are not tables")
    if max(columns.layout, default=-1) >= len(columns.layouts):
        raise ShapeError("layout names a place that layouts does not have")
    files = columns._begins[-1]
    _check_list(columns.rows, "rows", int, files)
    _check_list(columns.file_sizes, "file_sizes", int, files, or_none=True)
    _check_list(columns.sha256, "sha256", str, files)
    if set(map(len, columns.sha256)) - {64} or not _HEX.fullmatch("".join(columns.sha256)):
        raise ShapeError("sha256 holds something that is no such digest")
    for stage, digests in columns.made_from.items():
        _check_list(digests, f"made_from.{stage}", str, count, or_none=True)
    for name, numbers in columns.counts.items():
        _check_list(numbers, f"counts.{name}", int, count, or_none=True)


def _check_list(column: Any, name: str, kind: type, length: int | None = None, or_none: bool = False) -> None:
    """Raise ShapeError unless it is a list of values of a kind, of a length; numbers count something."""
    if not isinstance(column, list):
        raise ShapeError(f"{name} is {ascii(column)[:40]}, expected a list")
    if length is not None and len(column) != length:
        raise ShapeError(f"{name} has {len(column):,} values, expected {length:,}")
    kinds = set(map(type, column))
    allowed = {kind, type(None)} if or_none else {kind}
    if not kinds <= allowed:
        raise ShapeError(f"{name} holds values of another kind than {kind.__name__}")
    if kind is int and min((value for value in column if value is not None), default=0) < 0:
        raise ShapeError(f"{name} holds a number below 0")


def same(columns: ShardColumns, place: int, marker: Marker) -> bool:
    """True if a marker is the one that the columns hold at a place, its digest included."""
    return columns[place] == marker and columns.digests[place] == marker.digest
