"""What of a run is there as it was written, and what is still to be made.

A marker says what its shard's files are, and what was read to make them; a shard that is not what its marker
says is missing, as one without a marker is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from engine.plan import Run
from engine.stage import Stage
from schemas.contents import Allowance, check_files
from schemas.loading import no_garbage
from schemas.manifest import (
    Finished,
    Marker,
    confirmed,
    look_past_manifest,
    marker_name,
    markers_in,
    read_marker,
    read_markers,
    tried,
)
from schemas.records import Damaged, read_record, what_of
from schemas.shard_columns import ShardColumns

SCANNED = "scanned.json"  # in the first stage's folder


def marker_if_up_to_date(run: Run, stage: Stage, shard: int, made_from: Mapping[str, str]) -> Marker | None:
    """The shard's marker, if its files are there and it was made from the shards that are there now.

    This decides whether a shard is stale; whether a folder is, its name does (`plan`), and whether its bytes
    are what was written, `missing` has found out.

    `made_from`: stage -> digest of the marker of this shard in each stage above."""
    folder = run.folder(stage)
    marker = read_marker(folder, shard)
    if marker is None or marker.made_from != made_from:
        return None
    for file in marker.files:
        if not folder.exists(file.name):
            return None
    return marker


_ROWS_OUT = ("rows_out", "rejects", "duplicates")  # what the first stage counts of the rows it was given
_Digest = TypeVar("_Digest")


def made_from(run: Run, stage: Stage, digests: Mapping[str, _Digest]) -> dict[str, _Digest]:
    """What a shard of the stage is made from, given the digests of the markers of all stages before it; or
    what each of its shards is, given those of each of theirs."""
    return {above.name: digests[above.name] for above in run.above(stage)}


@dataclass(frozen=True)
class Damage:
    """A shard of a stage that is there and not as it was written: `what` names the file and says why.

    `done`: what is done about it."""

    stage: Stage
    shard: int
    what: str
    done: str = "made again"


Looked = Mapping[str, Finished | Damaged]
_NOT_LOOKED: Looked = {}


@dataclass(frozen=True)
class Survey:
    """What is still to be made of a run. `gaps`: shard -> stages; `stale`: how many shards of stages were
    made from other shards than those that are there now."""

    gaps: dict[int, list[Stage]]
    stale: int


def missing(run: Run, damaged: Callable[[Damage], None] = lambda damage: None) -> dict[int, list[Stage]]:
    """What is still to be made: shard -> stages. Looks into every marker and every file that changed since it
    was last read.

    A shard whose bytes are not what its marker says is missing; `damaged` is told of it."""
    with no_garbage():
        return survey(run, damaged).gaps


def survey(
    run: Run,
    damaged: Callable[[Damage], None] = lambda damage: None,
    allowance: Allowance | None = None,
    looked: Looked = _NOT_LOOKED,
) -> Survey:
    """What is there and what is not, by one listing of each folder; see `missing`.

    `allowance`: how much may be read of files and markers that are not remembered; None: all of it.
    `looked`: folder -> what a look into it found, where there was one already."""
    gaps: dict[int, list[Stage]] = {}
    stale = 0
    digests: dict[str, list[str]] = {}
    whole = [True] * run.shards  # of the shard in all stages so far
    for number, stage in enumerate(run.stages):
        folder = run.folder(stage)
        found = looked.get(folder.name) or tried(folder)
        markers = _whole_markers(run, stage, found, damaged, allowance)
        is_right = _made_from_these(markers, run.shards, made_from(run, stage, digests))
        digests[stage.name] = [""] * run.shards
        for shard, digest in zip(markers.numbers, markers.digests, strict=True):
            digests[stage.name][shard] = digest
        for shard in range(run.shards):
            is_there = digests[stage.name][shard] != ""
            if not is_there or not is_right[shard]:
                gaps.setdefault(shard, list(run.stages[number:]))
            whole[shard] = whole[shard] and is_there
            stale += whole[shard] and not is_right[shard]
    return Survey(dict(sorted(gaps.items())), stale)


def lacks(run: Run, shard: int) -> list[Stage]:
    """What one shard lacks at this moment, by its markers alone."""
    digests: dict[str, str] = {}
    for number, stage in enumerate(run.stages):
        try:
            marker = marker_if_up_to_date(run, stage, shard, made_from(run, stage, digests))
        except Damaged:
            marker = None
        if marker is None:
            return list(run.stages[number:])
        digests[stage.name] = marker.digest
    return []


def _made_from_these(markers: ShardColumns, shards: int, above: Mapping[str, Sequence[str]]) -> list[bool]:
    """For each shard whether its marker says that it was made from these.

    `above`: stage -> the digest of each shard's marker there."""
    is_right = [False] * shards
    for shard in markers.numbers:
        is_right[shard] = True
    for stage in above.keys() | markers.made_from.keys():
        column = markers.made_from.get(stage) or [None] * len(markers)
        expected = above.get(stage)
        for shard, digest in zip(markers.numbers, column, strict=True):
            if digest != (expected[shard] if expected is not None else None):
                is_right[shard] = False
    return is_right


def _whole_markers(
    run: Run,
    stage: Stage,
    found: Finished | Damaged,
    damaged: Callable[[Damage], None],
    allowance: Allowance | None,
) -> ShardColumns:
    """The markers of the stage's shards that are what was written; `damaged` is told of the others."""
    folder = run.folder(stage)
    bad: dict[int, Damaged] = {}

    def refused(shard: int, error: Damaged) -> None:
        bad.setdefault(shard, error)

    # What is damaged is a marker, or the manifest, which `finish` writes again.
    finished = look_past_manifest(folder, refused) if isinstance(found, Damaged) else found
    finished = confirmed(finished, refused, allowance.files if allowance else None)
    markers = finished.shards
    for at, error in check_files(finished, allowance=allowance).items():
        refused(int(markers.file(at).name.partition(".")[0]), error)
    if stage.scan:
        _refuse_losses(run, markers, refused)
    # A manifest names all markers that are there, `look` has seen to it.
    there = markers.numbers if finished.manifest else markers_in(finished.entries.values())
    for shard in there:
        if shard >= run.shards:
            what = f"{folder.where(marker_name(shard))}: the run has no such shard, it has {run.shards:,}"
            bad.pop(shard, None)
            damaged(Damage(stage, shard, what, "removed"))
    for shard, error in sorted(bad.items()):
        damaged(Damage(stage, shard, what_of(error)))
    return markers.without({shard for shard in markers.numbers if shard in bad or shard >= run.shards})


def _refuse_losses(run: Run, markers: ShardColumns, refused: Callable[[int, Damaged], None]) -> None:
    """Refuse the first stage's shards that do not account for every row that was read."""
    read = _rows_read_if_known(run)
    folder = run.folder(run.stages[0])
    nothing = [0] * len(markers)
    rows_in, *rows_out = [markers.counts.get(name, nothing) for name in ("rows_in", *_ROWS_OUT)]
    for place, shard in enumerate(markers.numbers):
        if shard >= run.shards:
            continue
        out = sum(counted[place] or 0 for counted in rows_out)
        if (rows_in[place] or 0) == out and (read is None or out == read[shard]):
            continue  # most of them, so a marker is built only for what is lost
        loss = loss_of(markers[place], read)
        refused(shard, Damaged(f"{folder.where(marker_name(shard))}: {loss}: made again"))


@dataclass(frozen=True)
class RowsRead:
    """scanned.json: how many rows the scan read of each shard, by number."""

    rows: tuple[int, ...]


def rows_read(run: Run) -> Sequence[int] | None:
    """How many rows the scan read of each shard; None in a run from before that was kept. Raises Damaged."""
    folder = run.folder(run.stages[0])
    if not folder.exists(SCANNED):
        return None
    rows = read_record(folder, SCANNED, RowsRead).rows
    if len(rows) != run.shards:
        raise Damaged(
            f"{folder.where(SCANNED)}: damaged, it counts {len(rows)} shards of {run.shards}: counted again"
        )
    return rows


def _rows_read_if_known(run: Run) -> Sequence[int] | None:
    try:
        return rows_read(run)
    except Damaged:
        return None


def loss_of(marker: Marker, read: Sequence[int] | None) -> str | None:
    """How a shard of the first stage does not account for every row that was read; None where it does."""
    counts = marker.counts
    rows_in = counts.get("rows_in", 0)
    if read is not None and rows_in != read[marker.shard]:
        return f"it was made of {rows_in:,} rows, and the scan read {read[marker.shard]:,}"
    rows_out = sum(counts.get(name, 0) for name in _ROWS_OUT)
    if rows_in != rows_out:
        return f"of {rows_in:,} rows it accounts for {rows_out:,}"
    return None


def must_count_again(run: Run) -> str | None:
    """Why the numbers of rows read are to be taken once more from the input; None where they need not be."""
    folder = run.folder(run.stages[0])
    try:
        if rows_read(run) is not None:
            return None
    except Damaged as error:
        return what_of(error)
    # Where no file has its size an older prefmill made the run, which did not keep the numbers.
    has_sizes = any(size is not None for size in read_markers(folder).file_sizes)
    return f"{folder.where(SCANNED)} is gone" if has_sizes else None
