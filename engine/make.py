"""One shard through its stages; the scan of the input; writing.

A stage's rows become real in two steps: the Parquet files are put, then the marker that names them with their
sha256. A reader lists markers only, so a kill at any point leaves nothing that is half there.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine import sql
from engine.finite_rows import check_finite
from engine.models import Model
from engine.plan import Run, made_from, marker_if_up_to_date
from engine.progress import NO_PROGRESS, StageProgress
from engine.stage import Made, Scanned, Stage
from engine.usable import check_shard
from schemas.manifest import (
    MANIFEST,
    File,
    Marker,
    json_bytes,
    marker_name,
    read_json,
    read_marker,
    shard_name,
    verify,
    write_manifest,
    write_marker,
)
from schemas.store import Store
from schemas.tables import TABLES, stored

_ROW_GROUP = 4096
_SCAN = "scan"
_SCAN_DONE = "done.json"
_SCAN_BUFFER = 16 << 20  # bytes of rows that wait in memory during a scan


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
    batch = batch_of(run, stage, shard)
    context = run.context(stage, lambda: open_model(stage))
    made = stage.fn(batch, run.config(stage), replace(context, progress=progress))
    check_finite(stage.name, made.tables)
    return made


def batch_of(run: Run, stage: Stage, shard: int) -> pa.Table:
    """The rows that a stage's function is given: scanned from outside, or joined by its query."""
    if stage.scan:
        return _scanned_rows(run.folder(stage), shard)
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
    """The rows of one file. Raises UserError where it is not what its marker says."""
    path = verify(folder, file)
    schema = TABLES[file.table]
    return pq.read_table(path, schema=schema, page_checksum_verification=True, partitioning=None)


def _commit(folder: Store, shard: int, made: Made, above: dict[str, str]) -> Marker:
    """Write a shard's files, then the marker that makes them real. A table without rows has no file."""
    files: list[File] = []
    for table, rows in made.tables.items():
        if len(rows):
            name = f"{shard_name(shard)}.{table}.parquet"
            digest = folder.put_file(name, _writer(stored(rows)))
            files.append(File(name, table, len(rows), digest))
    counts = {name: count for name, count in made.counts.items() if count}
    marker = Marker(shard, tuple(files), above, counts)
    folder.remove(marker_name(shard))
    write_marker(folder, marker)
    return marker


def _writer(rows: pa.Table) -> Callable[[Path], None]:
    return lambda path: write_parquet(rows, path)


def write_parquet(rows: pa.Table, path: Path) -> None:
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


def finish(run: Run) -> dict[str, dict]:
    """Write the manifest of every stage, once all its shards are there; stage -> manifest."""
    manifests: dict[str, dict] = {}
    for stage in run.stages:
        folder = run.folder(stage)
        markers: list[Marker] = []
        for shard in range(run.shards):
            marker = read_marker(folder, shard)
            if marker is not None:
                markers.append(marker)
        manifests[stage.name] = write_manifest(folder, run.planned[stage.name].facts, markers)
        folder.remove(_SCAN)
    return manifests


def finished(run: Run) -> dict[str, dict]:
    """The manifests of a run in which nothing is missing, written if the last run was killed just before."""
    folders = {stage.name: run.folder(stage) for stage in run.stages}
    if all(folder.exists(MANIFEST) for folder in folders.values()):
        return {name: read_json(folder, MANIFEST) for name, folder in folders.items()}
    return finish(run)


def reopen(run: Run, stage: Stage) -> None:
    """Take back a stage's manifest, because some of its shards are going to be made."""
    run.folder(stage).remove(MANIFEST)


# The scan: rows from outside, partitioned by shard in one pass.


def scan(run: Run, wanted: Collection[int], report: Callable[[int], None]) -> None:
    """Read all input once and put each row into its shard's file, for the shards wanted.

    A scan that was cut off starts again. `report` is told how many rows were read."""
    stage = run.stages[0]
    folder = run.folder(stage)
    scanned = folder.child(_SCAN)
    if scanned.exists(_SCAN_DONE) and set(wanted) <= set(read_json(scanned, _SCAN_DONE)["shards"]):
        return

    def fill(path: Path) -> None:
        _partition(run, stage, path, wanted, report)
        (path / _SCAN_DONE).write_bytes(json_bytes({"shards": sorted(wanted)}))

    folder.put_folder(_SCAN, fill)


def _partition(
    run: Run, stage: Stage, folder: Path, wanted: Collection[int], report: Callable[[int], None]
) -> None:
    assert stage.scan is not None
    waiting: dict[int, list[pa.Table]] = {}
    waiting_bytes = 0
    for scanned in stage.scan(run.config(stage), run.planned[stage.name].facts):
        for shard, rows in _by_shard(scanned):
            if shard in wanted:
                waiting.setdefault(shard, []).append(rows)
        waiting_bytes += scanned.rows.nbytes
        if waiting_bytes >= _SCAN_BUFFER:
            _flush(folder, waiting)
            waiting_bytes = 0
        report(len(scanned.shards))
    _flush(folder, waiting)


def _by_shard(scanned: Scanned) -> list[tuple[int, pa.Table]]:
    """The rows of each shard, in the order of the input."""
    shards = pa.array(scanned.shards, pa.int32())
    order = pc.sort_indices(shards)  # stable
    rows = scanned.rows.take(order)
    sorted_shards = shards.take(order).to_numpy()
    begins = np.flatnonzero(np.diff(sorted_shards, prepend=-1)).tolist()
    parts: list[tuple[int, pa.Table]] = []
    for begin, end in pairwise([*begins, len(sorted_shards)]):
        parts.append((int(sorted_shards[begin]), rows.slice(begin, end - begin)))
    return parts


def _flush(folder: Path, waiting: dict[int, list[pa.Table]]) -> None:
    """Append what waits to the shards' files, an Arrow stream each time."""
    for shard, tables in waiting.items():
        rows = pa.concat_tables(tables).combine_chunks()
        with (
            open(folder / f"{shard_name(shard)}.arrows", "ab") as file,
            pa.ipc.new_stream(file, rows.schema) as stream,
        ):
            stream.write_table(rows)
    waiting.clear()


def _scanned_rows(folder: Store, shard: int) -> pa.Table:
    """The rows scanned for a shard: Arrow streams one after another in one file, which there may not be."""
    name = f"{shard_name(shard)}.arrows"
    scanned = folder.child(_SCAN)
    if not scanned.exists(name):
        return pa.table({"reason": pa.array([], pa.string())})
    parts: list[pa.Table] = []
    with pa.memory_map(str(scanned.local_path(name))) as file:
        while file.tell() < file.size():
            with pa.ipc.open_stream(file) as stream:
                parts.append(stream.read_all())
    return pa.concat_tables(parts)
