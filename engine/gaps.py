"""What of a run is there as it was written, and what is still to be made.

A marker says what its shard's files are, and what was read to make them; a shard that is not what its marker
says is missing, as one without a marker is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from engine.plan import Run
from engine.stage import Stage
from schemas.manifest import Marker, check, marker_name, marker_names, read_marker
from schemas.records import Damaged, read_record, what_of

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


def made_from(run: Run, stage: Stage, digests: Mapping[str, str]) -> dict[str, str]:
    """What a shard of the stage is made from, given the digests of the markers of all stages before it."""
    return {above.name: digests[above.name] for above in run.above(stage)}


@dataclass(frozen=True)
class Damage:
    """A shard of a stage that is there and not as it was written: `what` names the file and says why.

    `done`: what is done about it."""

    stage: Stage
    shard: int
    what: str
    done: str = "made again"


def missing(run: Run, damaged: Callable[[Damage], None] = lambda damage: None) -> dict[int, list[Stage]]:
    """What is still to be made: shard -> stages. Reads markers and looks at their files.

    A shard whose bytes are not what its marker says is missing; `damaged` is told of it."""
    gaps: dict[int, list[Stage]] = {}
    read = _rows_read_if_known(run)
    for shard in range(run.shards):
        digests: dict[str, str] = {}
        for number, stage in enumerate(run.stages):
            try:
                marker = _whole_marker(run, stage, shard, read)
            except Damaged as error:
                marker = None
                damaged(Damage(stage, shard, what_of(error)))
            if marker is None or marker.made_from != made_from(run, stage, digests):
                gaps.setdefault(shard, list(run.stages[number:]))
            # Also below what is missing: a shard that is damaged there has to be taken back as well.
            digests[stage.name] = marker.digest if marker else ""
    for damage in _too_many(run):
        damaged(damage)
    return gaps


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


def _too_many(run: Run) -> Iterator[Damage]:
    """The markers that are there of shards that the run does not have."""
    wanted = {marker_name(shard) for shard in range(run.shards)}
    for stage in run.stages:
        folder = run.folder(stage)
        for name in marker_names(folder):
            if name not in wanted:
                what = f"{folder.where(name)}: the run has no such shard, it has {run.shards:,}"
                yield Damage(stage, int(name.removesuffix(".json")), what, "removed")


def _whole_marker(run: Run, stage: Stage, shard: int, read: Sequence[int] | None) -> Marker | None:
    """The shard's marker if there is one, and its files are what it says. Raises Damaged."""
    folder = run.folder(stage)
    marker = read_marker(folder, shard)
    if marker is None:
        return None
    for file in marker.files:
        check(folder, file)
    loss = loss_of(marker, read) if stage.scan else None
    if loss:
        raise Damaged(f"{folder.where(marker_name(shard))}: {loss}: made again")
    return marker


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
    rows_out = sum(counts.get(name, 0) for name in ("rows_out", "rejects", "duplicates"))
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
    for shard in range(run.shards):
        marker = read_marker(folder, shard)
        # Where no file has its size an older prefmill made the run, which did not keep the numbers.
        if marker is not None and any(file.size is not None for file in marker.files):
            return f"{folder.where(SCANNED)} is gone"
    return None


def stale_shards(run: Run) -> int:
    """How many shards were made from other shards than those that are there now."""
    stale = 0
    for shard in range(run.shards):
        digests: dict[str, str] = {}
        for stage in run.stages:
            try:
                marker = read_marker(run.folder(stage), shard)
            except Damaged:
                break  # `missing` tells of it
            if marker is None:
                break
            if marker_if_up_to_date(run, stage, shard, made_from(run, stage, digests)) is None:
                stale += 1
            digests[stage.name] = marker.digest
    return stale
