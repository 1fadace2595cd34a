"""The files that hold each table of a run: the shards that markers name, their digests checked."""

from schemas.manifest import read_markers, verify
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
