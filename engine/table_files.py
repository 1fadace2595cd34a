"""The files that hold each table of a run: the shards that markers name, their digests checked."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from schemas.contents import check_files
from schemas.loading import no_garbage
from schemas.manifest import File, Finished, Planned, tried
from schemas.plans import read_plan
from schemas.records import Damaged
from schemas.store import Store
from schemas.tables import TABLES

TableFiles = dict[str, list[str]]  # table -> local paths of its Parquet files


class RunFiles:
    """What of a run is finished at this moment, by one listing of each folder. No shard is opened."""

    def __init__(self, run: Store):
        """Raises UserError for no run folder, and where what says what is finished is damaged."""
        self._planned, self.shards = read_plan(run)
        self._finished: list[Finished] = []
        for found in looks(run, self._planned).values():
            if isinstance(found, Damaged):
                raise found
            self._finished.append(found)

    def stages(self) -> list[tuple[Planned, Finished]]:
        """The run's stages, and what of each is finished."""
        return list(zip(self._planned, self._finished, strict=True))

    def of_tables(self, tables: Collection[str] = tuple(TABLES)) -> TableFiles:
        """The files of these tables. Raises UserError where one is gone, or is not what its marker says."""
        paths: TableFiles = {name: [] for name in TABLES if name in tables}
        for finished in self._finished:
            for error in check_files(finished, tables).values():
                raise error
            files = files_of(finished, tables)
            local = finished.folder.local_files(
                [file.name for file in files], [file.sha256 for file in files]
            )
            for file, path in zip(files, local, strict=True):
                paths[file.table].append(str(path))
        return paths

    def by_shard(self, table: str) -> dict[str, list[tuple[Store, File]]]:
        """Shard, by its number in file names -> the files with its rows of a table, and their folders."""
        found: dict[str, list[tuple[Store, File]]] = {}
        for finished in self._finished:
            for file in files_of(finished, [table]):
                found.setdefault(file.name.partition(".")[0], []).append((finished.folder, file))
        return dict(sorted(found.items()))

    def unfinished(self) -> list[str]:
        """For each stage of which not every shard is there, how many are."""
        found: list[str] = []
        for stage, finished in self.stages():
            there = len(finished.shards)
            if there < self.shards:
                found.append(f"{stage.stage}: {there:,} of {self.shards:,} shards")
        return found


def looks(run: Store, planned: Sequence[Planned]) -> dict[str, Finished | Damaged]:
    """Folder -> what of it is finished, or what is damaged; in a bucket of all stages at once."""
    names = [stage.folder for stage in planned]
    # A disk answers sooner than a thread is woken: several would take longer than one.
    threads = 1 if run.on_disk() is run else max(1, len(names))
    # A hundred thousand files are a hundred thousand objects, none of them garbage.
    with no_garbage(), ThreadPoolExecutor(threads) as pool:
        return dict(zip(names, pool.map(lambda name: tried(run.child(name)), names), strict=True))


def files_of(finished: Finished, tables: Collection[str]) -> list[File]:
    """The files of a stage that hold rows of these tables, by what its markers say."""
    return [finished.shards.file(at) for at in finished.shards.places_of(frozenset(tables))]


def table_files(run: Store) -> TableFiles:
    """The files of all tables. Raises UserError where one is gone or damaged."""
    return RunFiles(run).of_tables()


def unfinished(run: Store) -> list[str]:
    """For each stage of which not every shard is there, how many are."""
    return RunFiles(run).unfinished()
