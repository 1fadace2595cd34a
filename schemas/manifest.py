"""What a folder of a run is: `<stage>-<fingerprint>/`.

    facts.json        what the folder is made from; written first, so that an unfinished folder can be
                      compared with a recipe
    00007.json        marker of a finished shard: its files with sha256 and rows, the digests of the shards it
                      was made from, its counts
    00007.TABLE.parquet
    manifest.json     facts and all markers once every shard is there, with the totals; written last

Nothing here holds a time or a host's name: the same inputs give the same bytes. What no marker names does not
exist. `plan.json` in the run's folder names the folders that the last `engine precompute` made or was making.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from schemas.digest import canonical, content_digest, fingerprint, sha256_file
from schemas.errors import UserError
from schemas.store import Store

MANIFEST = "manifest.json"
FACTS = "facts.json"
PLAN = "plan.json"
RECIPE = "recipe.toml"  # every default written out
METRICS = "metrics.jsonl"  # of a train folder: a line for each step, and for each evaluation

Facts = dict[str, Any]


@dataclass(frozen=True)
class File:
    """One Parquet file of a shard: rows of one table."""

    name: str
    table: str
    rows: int
    sha256: str


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
        return fingerprint(asdict(self))


@dataclass(frozen=True)
class Planned:
    """One stage of a plan: where its shards are and what they are made from."""

    stage: str
    folder: str
    facts: Facts


def shard_name(shard: int) -> str:
    """00007: what the names of a shard's files begin with."""
    return f"{shard:05d}"


def marker_name(shard: int) -> str:
    """The name of a shard's marker."""
    return f"{shard_name(shard)}.json"


def json_bytes(value: object) -> bytes:
    """JSON as we write it: for people, and with equal bytes for equal values."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def read_json(
    folder: Store, name: str, remedy: str = "delete it and run `engine precompute` again"
) -> dict[str, Any]:
    """A JSON file of ours. Raises UserError with the remedy where it is not JSON any more."""
    try:
        value: dict[str, Any] = json.loads(folder.read(name))
    except ValueError as error:
        raise UserError(
            f"{folder.where(name)}: not JSON any more ({error}); the disk or a person changed it: {remedy}"
        ) from None
    return value


def _marker_of(value: dict[str, Any]) -> Marker:
    files = tuple(File(**file) for file in value["files"])
    return Marker(value["shard"], files, value["made_from"], value["counts"])


def read_marker(folder: Store, shard: int) -> Marker | None:
    """The marker of a finished shard, else None."""
    name = marker_name(shard)
    return _marker_of(read_json(folder, name)) if folder.exists(name) else None


def read_markers(folder: Store) -> list[Marker]:
    """All finished shards of a folder in order, also while others are being made."""
    if folder.exists(MANIFEST):
        return [_marker_of(shard) for shard in read_json(folder, MANIFEST)["shards"]]
    return [_marker_of(read_json(folder, name)) for name in marker_names(folder)]


def marker_names(folder: Store) -> list[str]:
    """The names of the markers that are there, in order."""
    return folder.names("[0-9]*.json")


def write_marker(folder: Store, marker: Marker) -> None:
    """Make a shard's files real."""
    folder.put(marker_name(marker.shard), json_bytes(asdict(marker)))


def write_manifest(folder: Store, facts: Facts, markers: Iterable[Marker]) -> dict[str, Any]:
    """Write a folder's manifest, once all its shards are there, and return it."""
    rows: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    shards = []
    for marker in markers:
        rows.update(rows_by_table(marker))
        counts.update(marker.counts)
        shards.append(asdict(marker))
    manifest = {
        "facts": facts,
        "rows": dict(rows),
        "counts": dict(counts),
        "shards": shards,
    }
    folder.put(MANIFEST, json_bytes(manifest))
    return manifest


def rows_by_table(marker: Marker) -> Counter[str]:
    """How many rows of each table a shard has."""
    rows: Counter[str] = Counter()
    for file in marker.files:
        rows[file.table] += file.rows
    return rows


def verify(folder: Store, file: File, *, afresh: bool = False) -> Path:
    """A local path to a shard's file, once its bytes are what its marker says.

    A file whose size and time did not change since it was last hashed is not hashed again, unless `afresh`.
    Raises UserError where the file is gone or damaged."""
    where = folder.where(file.name)
    marker = marker_name(int(file.name[:5]))
    again = "run `engine precompute` again: only this shard is made anew"
    if not folder.exists(file.name):
        raise UserError(
            f"{where}: the marker names this file but it is gone; delete {marker} beside it and {again}"
        )
    path = folder.local_path(file.name)
    digest = sha256_file(path) if afresh else content_digest(path)
    if digest != file.sha256:
        raise UserError(
            f"{where}: damaged, its sha256 is not the one its marker names; "
            f"delete it and {marker} beside it and {again}"
        )
    return path


def difference(then: object, now: object, at: str = "") -> list[str]:
    """The facts in which two folders differ, as dotted names with both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        differences: list[str] = []
        for key in sorted(then.keys() | now.keys()):
            differences += difference(then.get(key), now.get(key), f"{at}.{key}" if at else key)
        return differences
    if canonical(then) == canonical(now):
        return []
    return [f"{at} (was {_short(then)}, is {_short(now)})"]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 24 else text[:12] + "…"


def write_plan(run: Store, stages: Iterable[Planned], shards: int, threads: int) -> None:
    """Write down what the run is to hold now; `threads`: of a model on the CPU (engine/threads.py)."""
    listed = [asdict(stage) for stage in stages]
    run.put(PLAN, json_bytes({"shards": shards, "stages": listed, "threads": threads}))


def read_plan(run: Store) -> tuple[list[Planned], int]:
    """The stages in order of execution, and the number of shards. Raises UserError for no run folder."""
    if not run.exists(PLAN):
        raise UserError(
            f"{run} is not a run folder (it has no plan.json); "
            f"make one with `engine precompute RECIPE -o {run}`"
        )
    plan = read_json(run, PLAN)
    return [Planned(**stage) for stage in plan["stages"]], plan["shards"]


def planned_threads(run: Store) -> int | None:
    """The threads of a model on the CPU with which the run was begun; None where no plan says."""
    if not run.exists(PLAN):
        return None
    threads = read_json(run, PLAN).get("threads")
    return threads if isinstance(threads, int) else None
