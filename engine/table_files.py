"""The files that hold each table of a run: the shards that markers name, their digests checked."""

from schemas.manifest import marker_names, read_markers, verify
from schemas.plans import read_plan
from schemas.store import Store
from schemas.tables import TABLES

TableFiles = dict[str, list[str]]  # table -> local paths of its Parquet files


def table_files(run: Store) -> TableFiles:
    """What is finished at this moment. Raises UserError where a file is gone or damaged."""
    planned, _ = read_plan(run)
    shards: TableFiles = {name: [] for name in TABLES}
    for stage in planned:
        folder = run.child(stage.folder)
        for marker in read_markers(folder):
            for file in marker.files:
                shards[file.table].append(str(verify(folder, file)))
    return shards


def unfinished(run: Store) -> list[str]:
    """For each stage of which not every shard is there, how many are."""
    planned, shards = read_plan(run)
    found: list[str] = []
    for stage in planned:
        there = len(marker_names(run.child(stage.folder)))
        if there < shards:
            found.append(f"{stage.stage}: {there:,} of {shards:,} shards")
    return found
