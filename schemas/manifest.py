"""What a folder of a run is: `<stage>-<fingerprint>/`.

    facts.json        what the folder is made from; written first, so that an unfinished folder can be
                      compared with a recipe. Their fingerprint is the folder's name
    00007.json        marker of a finished shard: its files with sha256, size and rows, the digests of the
                      shards it was made from, its counts (schemas/markers.py)
    00007.TABLE.parquet
    block-00003.json  while not every shard is there: many markers in one file (schemas/blocks.py)
    manifest.json     facts and all markers once every shard is there, with the totals; written last

Nothing that shards, markers and manifests hold is a time or a host's name: the same inputs give the same
bytes. What no marker names does not exist. `plan.json` in the run's folder names the folders that the last
`engine precompute` made or was making. Markers, manifests and plans are sealed.

`look` tells what is finished by one listing of the folder and the manifest, however many shards there are. A
manifest is refused where the listing shows a marker more or less than it sums up, or one of another size. A
marker that was changed and kept its size is not seen there, and need not be: what the manifest says was
written when the shard was whole. `confirmed` sees it (for `engine precompute`, which makes the marker again),
and so does `engine verify`, which reads everything. What a Parquet file holds is compared with its sha256
whenever it is opened (`verify`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from schemas.blocks import read_parts
from schemas.digest import is_settled, sha256_file
from schemas.manifest_file import MANIFEST as MANIFEST
from schemas.manifest_file import Facts as Facts
from schemas.manifest_file import Manifest as Manifest
from schemas.manifest_file import check_markers as check_markers
from schemas.manifest_file import folder_name as folder_name
from schemas.manifest_file import markers_in as markers_in
from schemas.manifest_file import read_manifest as read_manifest
from schemas.manifest_file import write_manifest as write_manifest
from schemas.markers import File as File
from schemas.markers import Marker as Marker
from schemas.markers import file_name as file_name
from schemas.markers import marker_name as marker_name
from schemas.markers import marker_names as marker_names
from schemas.markers import read_each
from schemas.markers import read_marker as read_marker
from schemas.markers import rows_by_table as rows_by_table
from schemas.markers import shard_name as shard_name
from schemas.markers import write_marker as write_marker
from schemas.records import AGAIN, Damaged, damaged
from schemas.records import json_bytes as json_bytes
from schemas.records import read_json as read_json
from schemas.seen import digest_of, seen_in
from schemas.shard_columns import ShardColumns, columns_of, joined, same
from schemas.store import Entry, Store

FACTS = "facts.json"
PLAN = "plan.json"
RECIPE = "recipe.toml"  # every default written out
METRICS = "metrics.jsonl"  # of a train folder: a line for each step, and for each evaluation


@dataclass(frozen=True)
class Planned:
    """One stage of a plan: where its shards are and what they are made from."""

    stage: str
    folder: str
    facts: Facts


Refused = Callable[[int, Damaged], None]  # is told of a shard whose marker is not what was written


@dataclass(frozen=True)
class Finished:
    """What of a stage's folder is finished at one moment.

    `entries`: the files there, by their names; `manifest`: None where not every shard is there."""

    folder: Store
    entries: dict[str, Entry]
    shards: ShardColumns
    manifest: Manifest | None = None


def refuse(shard: int, error: Damaged) -> None:
    """Raise the error: the first marker that is not what was written ends the look."""
    raise error


def look(folder: Store) -> Finished:
    """What is finished of a folder, by one listing and its manifest, also while shards are being made.

    Raises Damaged for a manifest that does not sum up the markers beside it, or, where there is none yet, for
    a marker that is not what was written."""
    try:
        return _look(folder)
    except (Damaged, FileNotFoundError):
        return _look(folder)  # it may have been listed while somebody finished it, or took it back


def _look(folder: Store) -> Finished:
    entries = {entry.name: entry for entry in folder.entries()}
    if MANIFEST in entries:
        manifest = read_manifest(folder, entries)
        return Finished(folder, entries, manifest.shards, manifest)
    return look_past_manifest(folder, refuse, entries)


def tried(folder: Store) -> Finished | Damaged:
    """What `look` finds, or what it raises."""
    try:
        return look(folder)
    except Damaged as error:
        return error


def look_past_manifest(folder: Store, refused: Refused, entries: dict[str, Entry] | None = None) -> Finished:
    """What the markers themselves say, whether there is a manifest or not."""
    if entries is None:
        entries = {entry.name: entry for entry in folder.entries()}
    parts = read_parts(folder, entries, markers_in(entries.values()), refused)
    return Finished(folder, entries, joined(parts))


def read_markers(folder: Store) -> ShardColumns:
    """All finished shards of a folder in order, also while others are being made. See `look`."""
    return look(folder).shards


def confirmed(finished: Finished, refused: Refused, most: int | None = None) -> Finished:
    """The same after a look into every marker; without its manifest where one says something else.

    A marker that was read before and was not written again is not read once more (schemas/seen.py). Where
    more than `most` would have to be read, none is."""
    folder, columns = finished.folder, finished.shards
    memory = seen_in(folder.where())
    entries = [finished.entries[name] for name in columns.marker_names()]
    unknown = {place: entries[place] for place in memory.unknown(entries, columns.digests)}
    if not unknown or (most is not None and len(unknown) > most):
        return finished
    settled = {entry.name for entry in unknown.values() if is_settled(entry.changed)}
    read: dict[int, tuple[Marker, int]] = {}
    for entry, marker in read_each(folder, list(unknown.values()), refused):
        read[marker.shard] = (marker, entry.size)
        if entry.name in settled:
            memory.note(entry, marker.digest)
    memory.write()
    if all(_is_same(columns, place, read) for place in unknown):
        return finished
    markers: list[tuple[Marker, int]] = list(read.values())
    for place in range(len(columns)):
        if place not in unknown:
            markers.append((columns[place], columns.sizes[place]))
    return Finished(folder, finished.entries, columns_of(markers))


def _is_same(columns: ShardColumns, place: int, read: dict[int, tuple[Marker, int]]) -> bool:
    shard = columns.numbers[place]
    return shard in read and same(columns, place, read[shard][0])


def read_facts(folder: Store) -> Facts:
    """What a folder was made from. Raises Damaged where its name says otherwise."""
    if not folder.exists(FACTS):
        raise Damaged(f"{folder.where(FACTS)} is gone: {AGAIN}")
    facts = read_json(folder, FACTS)
    if folder.name != folder_name(str(facts.get("stage")), facts):
        raise damaged(folder.where(FACTS), "its facts are not those that the folder is named by")
    return facts


def check(folder: Store, file: File) -> None:
    """Raise Damaged unless a shard's file is what its marker says, as `verify`; it need not be at hand."""
    _check_size(folder, file)
    check_content(folder, file)


def check_content(folder: Store, file: File) -> None:
    """Raise Damaged unless a file has its marker's sha256; FileNotFoundError where it is gone."""
    if folder.digest_of(file.name) != file.sha256:
        raise _not_as_marked(folder, file)


def verify(folder: Store, file: File, *, afresh: bool = False) -> Path:
    """A local path to a shard's file, once its bytes are what its marker says.

    A file whose size and time did not change since it was last hashed is not hashed again, unless `afresh`.
    Raises Damaged where the file is gone or is another one."""
    _check_size(folder, file)
    path = folder.local_file(file.name, file.sha256, afresh=afresh)
    digest = sha256_file(path) if afresh else digest_of(path)
    seen_in(path.parent).write()
    if digest != file.sha256:
        raise _not_as_marked(folder, file)
    return path


def _check_size(folder: Store, file: File) -> None:
    where = folder.where(file.name)
    try:
        size = folder.size(file.name)
    except FileNotFoundError:
        raise Damaged(f"{where}: the marker names this file but it is gone: {AGAIN}") from None
    if file.size is not None and size != file.size:
        raise damaged(where, f"it has {size:,} bytes and its marker says {file.size:,}")


def _not_as_marked(folder: Store, file: File) -> Damaged:
    return damaged(folder.where(file.name), "its sha256 is not the one its marker names")
