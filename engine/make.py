"""One shard through its stages; writing; the end of a run.

A stage's rows become real in two steps: the Parquet files are put, then the marker that names them with their
sha256. A reader lists markers only, so a kill at any point leaves nothing that is half there.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from engine import sql
from engine.finite_rows import check_finite
from engine.gaps import Damage, loss_of, made_from, marker_if_up_to_date, rows_read
from engine.jobs import Job
from engine.models import Model
from engine.plan import Run, check_unchanged
from engine.progress import NO_PROGRESS, StageProgress
from engine.scan import laid_rows, remove_scan, scanned_rows
from engine.stage import Made, Stage
from engine.usable import check_shard
from schemas.blocks import remove_blocks
from schemas.disk import naming
from schemas.errors import UserError
from schemas.manifest import (
    MANIFEST,
    File,
    Finished,
    Manifest,
    Marker,
    check,
    confirmed,
    file_name,
    look,
    look_past_manifest,
    marker_name,
    read_marker,
    refuse,
    verify,
    write_manifest,
    write_marker,
)
from schemas.records import AGAIN, Damaged, damaged, what_of
from schemas.store import Store
from schemas.tables import TABLES, stored

_ROW_GROUP = 4096


def make(
    run: Run,
    shard: int,
    stages: Collection[Stage],
    open_model: Callable[[Stage], Model],
    done: Callable[[Stage, Marker], None],
    progress_of: Callable[[Stage], StageProgress] = lambda stage: NO_PROGRESS,
) -> None:
    """Take one shard through some of the stages; what is there already stays as it is.

    `open_model(stage)` gives the model that the stage uses, `done` is told of each shard written, and
    `progress_of(stage)` of the stage's work on it."""
    digests: dict[str, str] = {}
    for stage in run.stages:
        above = made_from(run, stage, digests)
        marker = marker_if_up_to_date(run, stage, shard, above)
        if marker is None:
            if stage not in stages:
                return
            progress = progress_of(stage)
            progress.begin()
            made = compute(run, stage, shard, open_model, progress)
            check_shard(run, stage, made)
            check_unchanged(run, [stage])
            marker = _commit(run.folder(stage), shard, made, above)
            done(stage, marker)
        digests[stage.name] = marker.digest


def compute(
    run: Run,
    stage: Stage,
    shard: int,
    open_model: Callable[[Stage], Model],
    progress: StageProgress = NO_PROGRESS,
) -> Made:
    """What a stage makes of a shard, not yet written."""
    batch = laid_rows(run, shard) if stage.scan else batch_of(run, stage, shard)
    context = run.context(stage, lambda: open_model(stage))
    made = stage.fn(batch, run.config(stage), replace(context, progress=progress))
    check_finite(stage.name, made.tables)
    return made


def batch_of(run: Run, stage: Stage, shard: int) -> pa.Table:
    """The rows that a stage's function is given: scanned from outside, or joined by its query."""
    if stage.scan:
        return scanned_rows(run.folder(stage), shard)
    config = run.config(stage)
    query = stage.query if isinstance(stage.query, str) else stage.query(config)
    variables = stage.variables(config, run.recipe.seed) if stage.variables else {}
    above = run.above(stage)
    tables = {name: read_shard(run, name, shard, above) for name in stage.reads}
    return sql.over(tables, query, f"[{stage.name}]", variables)


def read_shard(run: Run, table: str, shard: int, stages: Collection[Stage]) -> pa.Table:
    """All rows of a table in one shard, from the stages named, each file checked against its marker."""
    parts = [TABLES[table].empty_table()]
    for stage in stages:
        folder = run.folder(stage)
        marker = read_marker(folder, shard)
        assert marker is not None, f"{stage.name} {shard} is read before it is made"
        for file in marker.files:
            if file.table == table:
                parts.append(read_file(folder, file))
    return pa.concat_tables(parts)


def read_file(folder: Store, file: File) -> pa.Table:
    """The rows of one file. Raises Damaged where it is not what its marker says."""
    path = verify(folder, file)
    schema = TABLES[file.table]
    with naming(path):
        rows = pq.read_table(path, schema=schema, page_checksum_verification=True, partitioning=None)
    if len(rows) != file.rows:
        raise damaged(folder.where(file.name), f"it has {len(rows):,} rows and its marker says {file.rows:,}")
    return rows


def _commit(folder: Store, shard: int, made: Made, above: dict[str, str]) -> Marker:
    """Write a shard's files, then the marker that makes them real. A table without rows has no file."""
    files: list[File] = []
    for table, rows in made.tables.items():
        if len(rows):
            name = file_name(shard, table)
            writer = _Writer(stored(rows))
            digest = folder.put_file(name, writer)
            files.append(File(name, table, len(rows), digest, writer.size))
    counts = {name: count for name, count in made.counts.items() if count}
    marker = Marker(shard, tuple(files), above, counts)
    write_marker(folder, marker)  # in the place of the one there was, if any
    return marker


class _Writer:
    """Writes rows as Parquet. `size`: of the file that it wrote, in bytes."""

    def __init__(self, rows: pa.Table):
        self._rows = rows
        self.size = 0

    def __call__(self, path: Path) -> None:
        write_parquet(self._rows, path)
        self.size = path.stat().st_size


def write_parquet(rows: pa.Table, path: Path | BinaryIO) -> None:
    """Write rows with zstd and page checksums; the same rows give the same bytes.

    Log-probs and token ids are split by byte, everything else uses dictionaries: about 3.4 bytes a log-prob
    and 1 a token id."""
    split: list[str] = []
    dictionary: list[str] = []
    for field in rows.schema:
        is_list = pa.types.is_list(field.type)
        name = f"{field.name}.list.element" if is_list else field.name
        if name in _SPLIT_COLUMNS:
            split.append(name)
        else:
            dictionary.append(name)
    pq.write_table(
        rows,
        path,
        compression="zstd",
        row_group_size=_ROW_GROUP,
        write_page_checksum=True,
        use_dictionary=dictionary,
        use_byte_stream_split=split,
    )


def _number_lists() -> set[str]:
    """The Parquet names of all columns that are lists of numbers."""
    names: set[str] = set()
    for schema in TABLES.values():
        for field in schema:
            if not pa.types.is_list(field.type):
                continue
            kind = field.type.value_type
            if pa.types.is_integer(kind) or pa.types.is_floating(kind):
                names.add(f"{field.name}.list.element")
    return names


_SPLIT_COLUMNS = _number_lists()


def finish(run: Run, say: Callable[[str], None]) -> dict[str, dict]:
    """Write the manifest of every stage that lacks it, once all shards are there.

    Gives the sums of each stage: its rows by table and its counts.

    One that does not sum up the markers is written again: `say` is told which. Raises UserError where rows
    were lost on the way from the scan to a shard."""
    sums: dict[str, dict] = {}
    for stage in run.stages:
        try:
            manifest = _with_manifest(run, stage, say)
        except Damaged:  # another command may have taken a marker back, and written it again by now
            manifest = _with_manifest(run, stage, say)
        sums[stage.name] = {"rows": manifest.rows, "counts": manifest.counts}
    remove_scan(run)
    return sums


def _with_manifest(run: Run, stage: Stage, say: Callable[[str], None]) -> Manifest:
    """The stage's manifest, written if there is none. Raises Damaged where a marker is gone, or changes."""
    folder = run.folder(stage)
    finished = _all_there(folder, run.shards, say)
    if stage.scan:
        _check_nothing_lost(run, finished.shards)
    facts = run.planned[stage.name].facts
    manifest = finished.manifest or write_manifest(folder, facts, finished.shards)
    remove_blocks(folder, finished.entries)
    return manifest


def _all_there(folder: Store, shards: int, say: Callable[[str], None]) -> Finished:
    """All markers of a stage, each looked into; with the manifest if it is what was written.

    Raises Damaged where a marker is gone, or is none any more."""
    try:
        found = confirmed(look(folder), refuse)
    except Damaged as error:
        found = confirmed(look_past_manifest(folder, refuse), refuse)
        say(f"{what_of(error)}: written again")
    else:
        if found.manifest is None and MANIFEST in found.entries:
            where = folder.where(MANIFEST)
            say(f"{where}: damaged, what it says is not what its markers say: written again")
    gone = set(range(shards)).difference(found.shards.numbers)
    if gone:
        raise Damaged(f"{folder.where(marker_name(min(gone)))} is gone: {AGAIN}")
    return found


def _check_nothing_lost(run: Run, markers: Iterable[Marker]) -> None:
    read = rows_read(run)
    for marker in markers:
        loss = loss_of(marker, read)
        if loss:
            raise UserError(
                f"{run.folder(run.stages[0])}: rows of shard {marker.shard} were lost: {loss}; run the same "
                "`engine precompute` again, which makes the shard anew; if it says so again, please report it"
            )


def take_back(run: Run, damages: Iterable[Damage], job: Job, say: Callable[[str], None]) -> list[Damage]:
    """Remove the markers of damaged shards: what no marker names does not exist, and is made again.

    Each is looked at once more while nobody else can write it: what looked damaged may have been in the
    middle of another command's work. `say` is told what is done; gives those that others have in hand."""
    with_others: list[Damage] = []
    for damage in damages:
        if not job.claim(damage.shard):
            with_others.append(damage)
            continue
        try:
            if _is_damaged(run, damage):
                say(f"{damage.what}: {damage.done}")
                reopen(run, damage.stage)
                run.folder(damage.stage).remove(marker_name(damage.shard))
        finally:
            job.release(damage.shard)
    return with_others


def _is_damaged(run: Run, damage: Damage) -> bool:
    """True if a shard is there and is not as it was written, at this moment."""
    folder = run.folder(damage.stage)
    if damage.shard >= run.shards:
        return True
    try:
        marker = read_marker(folder, damage.shard)
        if marker is None:
            return False
        for file in marker.files:
            check(folder, file)
        return damage.stage.scan is not None and loss_of(marker, rows_read(run)) is not None
    except Damaged:
        return True


def reopen(run: Run, stage: Stage) -> None:
    """Take back a stage's manifest, because some of its shards are going to be made."""
    run.folder(stage).remove(MANIFEST)
