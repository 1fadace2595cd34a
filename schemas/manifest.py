"""What a folder of a run is: `<stage>-<fingerprint>/`.

    facts.json        what the folder is made from; written first, so that an unfinished folder can be
                      compared with a recipe. Their fingerprint is the folder's name
    00007.json        marker of a finished shard: its files with sha256, size and rows, the digests of the
                      shards it was made from, its counts
    00007.TABLE.parquet
    manifest.json     facts and all markers once every shard is there, with the totals; written last

Nothing here holds a time or a host's name: the same inputs give the same bytes. What no marker names does not
exist; a manifest that does not sum up the markers beside it is refused. `plan.json` in the run's folder names
the folders that the last `engine precompute` made or was making. Markers, manifests and plans are sealed.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from schemas.digest import content_digest, fingerprint, sha256_file
from schemas.records import AGAIN, Damaged, damaged, read_record, sealed_bytes
from schemas.records import json_bytes as json_bytes
from schemas.records import read_json as read_json
from schemas.store import Store

MANIFEST = "manifest.json"
FACTS = "facts.json"
PLAN = "plan.json"
RECIPE = "recipe.toml"  # every default written out
METRICS = "metrics.jsonl"  # of a train folder: a line for each step, and for each evaluation

Facts = dict[str, Any]
_SHA256 = re.compile("[0-9a-f]{64}")


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
        value = asdict(self)
        for file in value["files"]:
            del file["size"]  # the sha256 says more; without it the digest is that of older markers
        return fingerprint(value)


@dataclass(frozen=True)
class Planned:
    """One stage of a plan: where its shards are and what they are made from."""

    stage: str
    folder: str
    facts: Facts


@dataclass(frozen=True)
class _Manifest:
    """manifest.json."""

    facts: Facts
    rows: dict[str, int]
    counts: dict[str, int]
    shards: tuple[Marker, ...]


def folder_name(stage: str, facts: Facts) -> str:
    """The name of a stage's folder: its facts settle it."""
    return f"{stage}-{fingerprint(facts)}"


def shard_name(shard: int) -> str:
    """00007: what the names of a shard's files begin with."""
    return f"{shard:05d}"


def file_name(shard: int, table: str) -> str:
    """The name of a shard's rows of a table."""
    return f"{shard_name(shard)}.{table}.parquet"


def marker_name(shard: int) -> str:
    """The name of a shard's marker."""
    return f"{shard_name(shard)}.json"


def _as_json(marker: Marker) -> dict[str, Any]:
    value = asdict(marker)
    for file in value["files"]:
        if file["size"] is None:
            del file["size"]
    return value


def read_marker(folder: Store, shard: int) -> Marker | None:
    """The marker of a finished shard, else None. Raises Damaged where it is none any more."""
    name = marker_name(shard)
    if not folder.exists(name):
        return None
    marker = read_record(folder, name, Marker, must_be_sealed=_has_sizes)
    problem = _problem(marker, shard)
    if problem:
        raise damaged(folder.where(name), problem)
    return marker


def _has_sizes(marker: Marker) -> bool:
    """True if the marker says how large its files are; what was written before there were seals does not."""
    return any(file.size is not None for file in marker.files)


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


def read_markers(folder: Store) -> list[Marker]:
    """All finished shards of a folder in order, also while others are being made.

    Raises Damaged for a marker that is not what was written, or a manifest that does not sum them up."""
    markers: list[Marker] = []
    for name in marker_names(folder):
        marker = read_marker(folder, int(name.removesuffix(".json")))
        if marker is not None:  # it may have been taken back just now
            markers.append(marker)
    if folder.exists(MANIFEST):
        read_manifest(folder, markers)
    return markers


def marker_names(folder: Store) -> list[str]:
    """The names of the markers that are there, in order."""
    names = [name for name in folder.names("[0-9]*.json") if _is_marker(name)]
    return sorted(names, key=lambda name: int(name.removesuffix(".json")))


def _is_marker(name: str) -> bool:
    digits = name.removesuffix(".json")
    return digits.isascii() and digits.isdigit() and marker_name(int(digits)) == name


def write_marker(folder: Store, marker: Marker) -> None:
    """Make a shard's files real."""
    folder.put(marker_name(marker.shard), sealed_bytes(_as_json(marker)))


def _manifest_of(facts: Facts, markers: Iterable[Marker]) -> dict[str, Any]:
    """What a manifest says: the sum of its markers."""
    rows: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    shards = []
    for marker in markers:
        rows.update(rows_by_table(marker))
        counts.update(marker.counts)
        shards.append(_as_json(marker))
    return {"facts": facts, "rows": dict(rows), "counts": dict(counts), "shards": shards}


def write_manifest(folder: Store, facts: Facts, markers: Iterable[Marker]) -> dict[str, Any]:
    """Write a folder's manifest, once all its shards are there, and return it."""
    manifest = _manifest_of(facts, markers)
    folder.put(MANIFEST, sealed_bytes(manifest))
    return manifest


def read_manifest(folder: Store, markers: Iterable[Marker]) -> dict[str, Any]:
    """A folder's manifest, which sums up exactly these markers: those beside it. Raises Damaged."""
    read = read_record(
        folder, MANIFEST, _Manifest, must_be_sealed=lambda manifest: any(map(_has_sizes, manifest.shards))
    )
    where = folder.where(MANIFEST)
    if folder.name != folder_name(str(read.facts.get("stage")), read.facts):
        raise damaged(where, "its facts are not those that the folder is named by")
    there = {marker.shard: marker for marker in markers}
    summed = {marker.shard: marker for marker in read.shards}
    for shard in sorted(there.keys() | summed.keys()):
        if there.get(shard) != summed.get(shard):
            raise damaged(
                where, f"what it says of shard {shard} is not what {marker_name(shard)} beside it says"
            )
    if [marker.shard for marker in read.shards] != sorted(there):
        raise damaged(where, "it lists a shard twice, or out of order")
    manifest = _manifest_of(read.facts, read.shards)
    for key, total in (("rows", read.rows), ("counts", read.counts)):
        if total != manifest[key]:
            raise damaged(where, f"its {key} are not the sum of its shards")
    return manifest


def read_facts(folder: Store) -> Facts:
    """What a folder was made from. Raises Damaged where its name says otherwise."""
    if not folder.exists(FACTS):
        raise Damaged(f"{folder.where(FACTS)} is gone: {AGAIN}")
    facts = read_json(folder, FACTS)
    if folder.name != folder_name(str(facts.get("stage")), facts):
        raise damaged(folder.where(FACTS), "its facts are not those that the folder is named by")
    return facts


def rows_by_table(marker: Marker) -> Counter[str]:
    """How many rows of each table a shard has."""
    rows: Counter[str] = Counter()
    for file in marker.files:
        rows[file.table] += file.rows
    return rows


def check(folder: Store, file: File) -> None:
    """Raise Damaged unless a shard's file is what its marker says, as `verify`; it need not be at hand."""
    _check_size(folder, file)
    if folder.digest_of(file.name) != file.sha256:
        raise _not_as_marked(folder, file)


def verify(folder: Store, file: File, *, afresh: bool = False) -> Path:
    """A local path to a shard's file, once its bytes are what its marker says.

    A file whose size and time did not change since it was last hashed is not hashed again, unless `afresh`.
    Raises Damaged where the file is gone or is another one."""
    _check_size(folder, file)
    path = folder.local_file(file.name, file.sha256, afresh=afresh)
    digest = sha256_file(path) if afresh else content_digest(path)
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
