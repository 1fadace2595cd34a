"""What a folder of a run is: `<stage>-<fingerprint>/`.

    facts.json        what the folder is made from; written first, so that an unfinished folder can be compared with a recipe
    00007.json        marker of a finished shard: its files with sha256 and rows, the digests of the shards it was made from, its counts
    00007.TABLE.parquet
    manifest.json     facts and all markers once every shard is there, with the totals; written last

Nothing here holds a time or a host's name: the same inputs give the same bytes. What no marker names does not exist.
`plan.json` in the run's folder names the folders that the last `engine precompute` made or was making: the run's present state.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from schemas.commit import canonical, commit_json, content_digest, fingerprint, sha256_file
from schemas.errors import UserError


@dataclass(frozen=True)
class File:
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
        return fingerprint(asdict(self))


def shard_name(shard: int) -> str:
    return f"{shard:05d}"


def marker_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard_name(shard)}.json"


def _marker(value: dict) -> Marker:
    return Marker(
        value["shard"], tuple(File(**file) for file in value["files"]), value["made_from"], value["counts"]
    )


def read_json(path: Path, remedy: str = "delete it and run `engine precompute` again") -> dict:
    """A JSON file of ours; raises UserError with the remedy where it is none any more."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(
            f"{path}: not JSON any more ({error}); the disk or a person changed it: {remedy}"
        ) from None


def read_marker(folder: Path, shard: int) -> Marker | None:
    path = marker_path(folder, shard)
    return _marker(read_json(path)) if path.exists() else None


def read_markers(folder: Path) -> list[Marker]:
    """All finished shards of a folder, also while others are being made, in order."""
    if (folder / "manifest.json").exists():
        return [_marker(shard) for shard in read_json(folder / "manifest.json")["shards"]]
    return [_marker(read_json(path)) for path in sorted(folder.glob("[0-9]*.json"))]


def write_marker(folder: Path, marker: Marker) -> None:
    commit_json(marker_path(folder, marker.shard), asdict(marker))


def write_manifest(folder: Path, facts: dict, markers: list[Marker]) -> dict:
    rows, counts = Counter(), Counter()
    for marker in markers:
        rows.update({file.table: file.rows for file in marker.files})
        counts.update(marker.counts)
    manifest = {
        "facts": facts,
        "rows": dict(rows),
        "counts": dict(counts),
        "shards": [asdict(marker) for marker in markers],
    }
    commit_json(folder / "manifest.json", manifest)
    return manifest


def verify(folder: Path, file: File, *, afresh: bool = False) -> Path:
    """The file's path, once its bytes are what its marker says. A file whose size and time did not change since it was last
    hashed is not hashed again, unless `afresh`."""
    path = folder / file.name
    if not path.exists():
        raise UserError(
            f"{path}: the marker names this file but it is gone; delete {shard_name(int(file.name[:5]))}.json beside it and run "
            "`engine precompute` again: only this shard is made anew"
        )
    if (sha256_file(path) if afresh else content_digest(path)) != file.sha256:
        raise UserError(
            f"{path}: damaged, its sha256 is not the one its marker names; delete it and {file.name[:5]}.json beside it and run "
            "`engine precompute` again: only this shard is made anew"
        )
    return path


def difference(then: object, now: object, at: str = "") -> list[str]:
    """The facts in which two folders differ, as dotted names with both values."""
    if isinstance(then, dict) and isinstance(now, dict):
        found = []
        for key in sorted(then.keys() | now.keys()):
            found += difference(then.get(key), now.get(key), f"{at}.{key}" if at else key)
        return found
    return [] if canonical(then) == canonical(now) else [f"{at} (was {_short(then)}, is {_short(now)})"]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 24 else text[:12] + "…"


@dataclass(frozen=True)
class Planned:
    """One stage of a plan: where it lies and what it is made from."""

    stage: str
    folder: str
    facts: dict


def write_plan(run: Path, stages: list[Planned], shards: int) -> None:
    commit_json(run / "plan.json", {"shards": shards, "stages": [asdict(stage) for stage in stages]})


def read_plan(run: Path) -> tuple[list[Planned], int]:
    """The stages in order of execution, and the number of shards."""
    path = run / "plan.json"
    if not path.exists():
        raise UserError(
            f"{run} is not a run folder (it has no plan.json); make one with `engine precompute RECIPE -o {run}`"
        )
    plan = read_json(path)
    return [Planned(**stage) for stage in plan["stages"]], plan["shards"]
