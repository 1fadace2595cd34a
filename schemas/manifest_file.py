"""manifest.json: what a folder is made from, all its markers in columns, and their sums.

Its bytes are one line of JSON with its digest in front, so that ten thousand shards are read in a hundredth
of a second. Older prefmills wrote a list of markers; it is read as it was, each marker beside it included.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.digest import fingerprint
from schemas.markers import Marker, has_sizes, marker_name, number_of, read_each
from schemas.records import (
    Damaged,
    compact_bytes,
    compact_value,
    damaged,
    is_compact,
    read_bytes,
    record_of,
)
from schemas.shapes import ShapeError, shaped
from schemas.shard_columns import ShardColumns, columns_from, columns_of, same
from schemas.store import Entry, Store

MANIFEST = "manifest.json"
Facts = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """A folder's facts, how many rows and counts its shards have together, and their markers."""

    facts: Facts
    rows: dict[str, int]
    counts: dict[str, int]
    shards: ShardColumns


def folder_name(stage: str, facts: Facts) -> str:
    """The name of a stage's folder: its facts settle it."""
    return f"{stage}-{fingerprint(facts)}"


def markers_in(entries: Iterable[Entry]) -> dict[int, Entry]:
    """The markers that a listing shows: shard -> entry, in order."""
    found: dict[int, Entry] = {}
    for entry in entries:
        number = number_of(entry.name)
        if number is not None:
            found[number] = entry
    return dict(sorted(found.items()))


def write_manifest(folder: Store, facts: Facts, markers: Iterable[Marker]) -> Manifest:
    """Write a folder's manifest, once all its shards are there, and return it.

    Before it the folder is rid of what killed workers left half written: nobody has anything to write in it.
    Raises Damaged, and leaves no manifest, where a marker was written again or taken back meanwhile: columns
    hold the sizes that the listing showed from which they were read."""
    if isinstance(markers, ShardColumns):
        columns = markers
    else:
        entries = markers_in(folder.entries("[0-9]*.json"))
        columns = columns_of((marker, entries[marker.shard].size) for marker in markers)
    manifest = Manifest(facts, dict(columns.rows_by_table()), columns.totals(), columns)
    value = {
        "facts": facts,
        "rows": manifest.rows,
        "counts": manifest.counts,
        "shards": columns.as_json(),
    }
    folder.sweep()
    folder.put(MANIFEST, compact_bytes(value))
    entries_now = {entry.name: entry for entry in folder.entries("[0-9]*.json")}
    try:
        _check_listing(columns, entries_now, folder.where(MANIFEST))
    except Damaged:
        folder.remove(MANIFEST)
        raise
    return manifest


def read_manifest(folder: Store, entries: Mapping[str, Entry]) -> Manifest:
    """A folder's manifest, which sums up the markers that a listing shows: `entries`, by their names.

    Raises Damaged where it does not; FileNotFoundError where there is none."""
    data = read_bytes(folder, MANIFEST)
    where = folder.where(MANIFEST)
    manifest = _parsed(data, where) if is_compact(data) else _parsed_old(data, folder, entries)
    if folder.name != folder_name(str(manifest.facts.get("stage")), manifest.facts):
        raise damaged(where, "its facts are not those that the folder is named by")
    _check_listing(manifest.shards, entries, where)
    if manifest.rows != manifest.shards.rows_by_table():
        raise damaged(where, "its rows are not the sum of its shards")
    if manifest.counts != manifest.shards.totals():
        raise damaged(where, "its counts are not the sum of its shards")
    return manifest


def _check_listing(markers: ShardColumns, entries: Mapping[str, Entry], where: str) -> None:
    """Raise Damaged unless these markers, each of its size, are those that a listing shows."""
    listed = [entries.get(name) for name in markers.marker_names()]
    agrees = all(entry and entry.size == size for entry, size in zip(listed, markers.sizes, strict=True))
    like_markers = [name for name in entries if name.endswith(".json") and name[0].isdigit()]
    if agrees and len(like_markers) == len(listed):
        return
    there = markers_in(entries.values())
    sizes = dict(zip(markers.numbers, markers.sizes, strict=True))
    for shard in sorted(there.keys() | sizes.keys()):
        if shard not in there or there[shard].size != sizes.get(shard):
            raise not_summed_up(where, shard)


def not_summed_up(where: str, shard: int) -> Damaged:
    """The error for a manifest that says something else of a shard than the marker beside it."""
    return damaged(where, f"what it says of shard {shard} is not what {marker_name(shard)} beside it says")


def check_markers(folder: Store, manifest: Manifest, markers: Iterable[Marker]) -> None:
    """Raise Damaged unless a manifest sums up exactly these markers, read whole."""
    there = {marker.shard: marker for marker in markers}
    places = {shard: place for place, shard in enumerate(manifest.shards.numbers)}
    for shard in sorted(there.keys() | places.keys()):
        if (
            shard not in there
            or shard not in places
            or not same(manifest.shards, places[shard], there[shard])
        ):
            raise not_summed_up(folder.where(MANIFEST), shard)


@dataclass(frozen=True)
class _Compact:
    """What the file holds; `shards`: see ShardColumns."""

    facts: Facts
    rows: dict[str, int]
    counts: dict[str, int]
    shards: Any


def _parsed(data: bytes, where: str) -> Manifest:
    value = compact_value(data, where)
    try:
        read = shaped(_Compact, value)
        columns = columns_from(read.shards)
    except ShapeError as error:
        raise damaged(where, str(error)) from None
    return Manifest(read.facts, read.rows, read.counts, columns)


@dataclass(frozen=True)
class _Old:
    """manifest.json as older prefmills wrote it."""

    facts: Facts
    rows: dict[str, int]
    counts: dict[str, int]
    shards: tuple[Marker, ...]


def _parsed_old(data: bytes, folder: Store, entries: Mapping[str, Entry]) -> Manifest:
    """It does not say how large its markers are, nor their digests: they are read and compared."""
    where = folder.where(MANIFEST)
    record_of(data, where, _Compact, must_be_sealed=lambda read: isinstance(read.shards, dict))
    read = record_of(data, where, _Old, must_be_sealed=lambda old: any(map(has_sizes, old.shards)))
    beside: dict[int, tuple[Marker, int]] = {}
    for entry, marker in read_each(folder, list(markers_in(entries.values()).values()), _refuse):
        beside[marker.shard] = (marker, entry.size)
    summed = {marker.shard: marker for marker in read.shards}
    for shard in sorted(beside.keys() | summed.keys()):
        if shard not in beside or beside[shard][0] != summed.get(shard):
            raise not_summed_up(where, shard)
    if [marker.shard for marker in read.shards] != sorted(beside):
        raise damaged(where, "it lists a shard twice, or out of order")
    return Manifest(read.facts, read.rows, read.counts, columns_of(beside.values()))


def _refuse(shard: int, error: Damaged) -> None:
    raise error
