"""The marker of a finished shard: `00007.json`, which names its files and makes them real.

A marker is read by itself (`read_marker`), or many are read together (`read_each`).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from schemas.digest import fingerprint
from schemas.errors import TooLarge
from schemas.records import MOST_BYTES, Damaged, damaged, record_of, sealed_bytes
from schemas.store import Entry, Store

_SHA256 = re.compile("[0-9a-f]{64}")
_AT_ONCE = 256  # markers that are in memory as bytes


@dataclass(frozen=True)
class File:
    """One Parquet file of a shard: rows of one table. `size`: in bytes; older markers do not have it."""

    name: str
    table: str
    rows: int
    sha256: str
    size: int | None = None


@dataclass(frozen=True)
class Marker:
    """A finished shard. `made_from`: stage -> digest of the marker read; `counts`: what the stage counted."""

    shard: int
    files: tuple[File, ...]
    made_from: dict[str, str]
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Fingerprint of the whole marker: of the shard's files and of all that they were made from."""
        files: list[dict[str, Any]] = []
        for file in self.files:
            # Without the size: the sha256 says more, and the digest is that of older markers.
            files.append({"name": file.name, "table": file.table, "rows": file.rows, "sha256": file.sha256})
        value = {"shard": self.shard, "files": files, "made_from": self.made_from, "counts": self.counts}
        return fingerprint(value)


def shard_name(shard: int) -> str:
    """00007: what the names of a shard's files begin with."""
    return f"{shard:05d}"


def file_name(shard: int, table: str) -> str:
    """The name of a shard's rows of a table."""
    return f"{shard:05d}.{table}.parquet"


def marker_name(shard: int) -> str:
    """The name of a shard's marker."""
    return f"{shard:05d}.json"


def number_of(name: str) -> int | None:
    """The shard whose marker has this name; None where it is no name of a marker."""
    digits = name.removesuffix(".json")
    if not (digits.isascii() and digits.isdigit()):
        return None
    number = int(digits)
    return number if marker_name(number) == name else None


def marker_names(folder: Store) -> list[str]:
    """The names of the markers that are there, in order."""
    found = [number_of(name) for name in folder.names("[0-9]*.json")]
    numbers = [number for number in found if number is not None]
    return [marker_name(number) for number in sorted(numbers)]


def as_json(marker: Marker) -> dict[str, Any]:
    """A marker as it is written."""
    value = asdict(marker)
    for file in value["files"]:
        if file["size"] is None:
            del file["size"]
    return value


def write_marker(folder: Store, marker: Marker) -> None:
    """Make a shard's files real."""
    folder.put(marker_name(marker.shard), sealed_bytes(as_json(marker)))


def read_marker(folder: Store, shard: int) -> Marker | None:
    """The marker of a finished shard, else None. Raises Damaged where it is none any more."""
    name = marker_name(shard)
    where = folder.where(name)
    try:
        data = folder.read(name)
    except FileNotFoundError:
        return None
    except TooLarge:
        raise damaged(where, f"it has {folder.size(name):,} bytes") from None
    if len(data) > MOST_BYTES:
        raise damaged(where, f"it has {len(data):,} bytes")
    return _checked(record_of(data, where, Marker, must_be_sealed=has_sizes), shard, where)


def read_each(
    folder: Store, entries: Sequence[Entry], refused: Callable[[int, Damaged], None]
) -> Iterator[tuple[Entry, Marker]]:
    """The markers that a listing shows, many of them read at once.

    `refused` is told of those that are not what was written; one that is gone by now is left out."""
    for begin in range(0, len(entries), _AT_ONCE):
        batch = entries[begin : begin + _AT_ONCE]
        for entry, data in zip(batch, _read_many(folder, batch), strict=True):
            shard = number_of(entry.name)
            assert shard is not None
            if data is None:
                continue
            where = folder.where(entry.name)
            try:
                if isinstance(data, Damaged):
                    raise data
                marker = _checked(record_of(data, where, Marker, must_be_sealed=has_sizes), shard, where)
            except Damaged as error:
                refused(shard, error)
            else:
                yield entry, marker


def _read_many(folder: Store, entries: Sequence[Entry]) -> list[bytes | Damaged | None]:
    """Their bytes; None of one that is gone."""
    if all(entry.size <= MOST_BYTES for entry in entries):
        try:
            return list(folder.read_many([entry.name for entry in entries]))
        except FileNotFoundError:
            pass
    return [_read(folder, entry) for entry in entries]


def _read(folder: Store, entry: Entry) -> bytes | Damaged | None:
    if entry.size > MOST_BYTES:
        return damaged(folder.where(entry.name), f"it has {entry.size:,} bytes")
    try:
        return folder.read(entry.name)
    except FileNotFoundError:
        return None


def has_sizes(marker: Marker) -> bool:
    """True if the marker says how large its files are; what was written before there were seals does not."""
    return any(file.size is not None for file in marker.files)


def _checked(marker: Marker, shard: int, where: str) -> Marker:
    """The marker, if it can be the one of the shard. Raises Damaged."""
    problem = _problem(marker, shard)
    if problem:
        raise damaged(where, problem)
    return marker


def _problem(marker: Marker, shard: int) -> str | None:
    """Why a marker cannot be the one of the shard; it names no file but its own."""
    from schemas.tables import TABLES

    if marker.shard != shard:
        return f"it is the marker of shard {marker.shard}"
    for file in marker.files:
        if file.table not in TABLES or file.name != file_name(shard, file.table):
            return f"it names {ascii(file.name)[:80]}, which is no file of its shard"
        if not _SHA256.fullmatch(file.sha256):
            return f"the sha256 of {file.name} is no such digest"
    return None


def rows_by_table(marker: Marker) -> Counter[str]:
    """How many rows of each table a shard has."""
    rows: Counter[str] = Counter()
    for file in marker.files:
        rows[file.table] += file.rows
    return rows
