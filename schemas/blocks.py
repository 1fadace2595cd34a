"""Blocks: the markers of many finished shards in one file, while a stage is being made.

    block-00003.json    the markers of the shards 768 to 1023, once all of them are there

A stage of ten thousand shards that is half made has five thousand markers; whoever asks what is there reads
twenty blocks and the markers of those that are not full. Nothing depends on a block: it holds the stamp of
each of its markers as the listing showed it before they were read, and one that does not agree with the
listing to the last stamp is as good as none. So nobody has to take one back, and in a copy of a run none
holds. They are written by `write_blocks` while shards are made, and removed when the manifest is there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.manifest_file import markers_in
from schemas.markers import Marker, read_each
from schemas.records import Damaged, compact_bytes, compact_value
from schemas.shapes import ShapeError, shaped
from schemas.shard_columns import ShardColumns, columns_from, columns_of
from schemas.store import Entry, Store

SHARDS = 256  # of a block
_PREFIX = "block-"


def block_name(number: int) -> str:
    """The name of a block's file."""
    return f"{_PREFIX}{number:05d}.json"


@dataclass(frozen=True)
class _Block:
    """A block's file. `stamps`: of its markers in the listing; `shards`: see ShardColumns."""

    stamps: tuple[str, ...]
    shards: Any


def write_blocks(folder: Store, shards: int) -> None:
    """Write the blocks of a stage's folder that are full and are not there yet; `shards`: of the run.

    Called now and then while shards are made, by anyone. One listing, and the markers of new blocks are read;
    a folder that is finished, or has few shards, is left alone."""
    if shards <= SHARDS:
        return
    entries = {entry.name: entry for entry in folder.entries("*.json")}
    if "manifest.json" in entries:
        return
    of_blocks = _by_block(markers_in(entries.values()))
    there = read_blocks(folder, entries, of_blocks)
    for number, markers in of_blocks.items():
        last = min((number + 1) * SHARDS, shards)
        if number not in there and [*markers] == list(range(number * SHARDS, last)):
            _write(folder, number, list(markers.values()))


def _write(folder: Store, number: int, entries: Sequence[Entry]) -> None:
    """Write a block, unless one of its markers is damaged or was just taken back."""
    damages: list[Damaged] = []
    read = list(read_each(folder, entries, lambda shard, error: damages.append(error)))
    if len(read) < len(entries):
        return
    columns = columns_of((marker, entry.size) for entry, marker in read)
    stamps = [entry.stamp for entry, _ in read]
    folder.put(block_name(number), compact_bytes({"stamps": stamps, "shards": columns.as_json()}))


def _by_block(markers: Mapping[int, Entry]) -> dict[int, dict[int, Entry]]:
    """Markers by the block that they belong to."""
    found: dict[int, dict[int, Entry]] = {}
    for shard, entry in markers.items():
        found.setdefault(shard // SHARDS, {})[shard] = entry
    return found


def read_blocks(
    folder: Store, entries: Mapping[str, Entry], of_blocks: Mapping[int, Mapping[int, Entry]]
) -> dict[int, ShardColumns]:
    """The blocks that are there and agree with the listing, by their numbers."""
    numbers = [number for number in of_blocks if block_name(number) in entries]
    try:
        contents = folder.read_many([block_name(number) for number in numbers])
    except FileNotFoundError:  # the stage was finished just now
        return {}
    found: dict[int, ShardColumns] = {}
    for number, data in zip(numbers, contents, strict=True):
        columns = _agreeing(data, of_blocks[number])
        if columns is not None:
            found[number] = columns
    return found


def _agreeing(data: bytes, markers: Mapping[int, Entry]) -> ShardColumns | None:
    """A block's columns; None where it is damaged, or one of its markers was written again since."""
    try:
        block = shaped(_Block, compact_value(data, ""))
        columns = columns_from(block.shards)
    except (Damaged, ShapeError):
        return None
    stamps = [entry.stamp for entry in markers.values()]
    sizes = [entry.size for entry in markers.values()]
    if columns.numbers != [*markers] or columns.sizes != sizes or list(block.stamps) != stamps:
        return None
    return columns


def read_parts(
    folder: Store, entries: Mapping[str, Entry], there: Mapping[int, Entry], refused: Any
) -> list[ShardColumns]:
    """The markers that are there as columns that follow each other, from blocks as far as these go.

    `refused` is told of a marker that is not what was written: (shard, error)."""
    of_blocks = _by_block(there)
    found = read_blocks(folder, entries, of_blocks)
    single: list[Entry] = []
    for number, markers in of_blocks.items():
        if number not in found:
            single += markers.values()
    apart: dict[int, list[tuple[Marker, int]]] = {}
    for entry, marker in read_each(folder, single, refused):
        apart.setdefault(marker.shard // SHARDS, []).append((marker, entry.size))
    for number, read in apart.items():
        found[number] = columns_of(read)
    return [found[number] for number in sorted(found)]


def remove_blocks(folder: Store, names: Iterable[str]) -> None:
    """Remove the blocks among the names of a folder's files: its manifest says what they say."""
    for name in names:
        if name.startswith(_PREFIX):
            folder.remove(name)
