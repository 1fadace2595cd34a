"""Stage, Run and make: all the code that knows shards, resume, fingerprints and commits.

A stage is a query and a pure function. Its folder is named by the fingerprint of all it is made from, so the name of every folder is known
before anything is made, nothing is ever stale, and to resume is to make what is missing. A shard depends on the shards of its own number
above it and on nothing else. DESIGN's `table` is `writes` here, since an import fills prompts and rejects (and given: responses and scores)
from one reading; `scan` is for the one stage whose rows come from outside and have no shard yet.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine import sql
from engine.models import Model, Uses
from schemas.commit import (
    commit_bytes,
    commit_json,
    committed,
    fingerprint,
    locked,
    sha256_file,
    sweep,
    sync_file,
)
from schemas.errors import UserError
from schemas.manifest import (
    File,
    Marker,
    Planned,
    difference,
    marker_path,
    read_json,
    read_marker,
    shard_name,
    verify,
    write_manifest,
    write_marker,
    write_plan,
)
from schemas.recipe import Recipe, dump
from schemas.tables import TABLES

# Log-probs and token ids compress best split by byte; strings by dictionary (pitfalls: 3.4 and about 1 byte a value).
_SPLIT = {
    f"{field.name}.list.element"
    for schema in TABLES.values()
    for field in schema
    if pa.types.is_list(field.type)
    and (pa.types.is_integer(field.type.value_type) or pa.types.is_floating(field.type.value_type))
}
_ROW_GROUP = 4096
_SCAN_BUFFER = 16 << 20  # bytes of rows waiting to be laid down


@dataclass(frozen=True)
class Made:
    """What a stage makes of one shard: rows by table, and what it counted."""

    tables: dict[str, pa.Table]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Scanned:
    """A batch of rows from outside, and the shard of each."""

    rows: pa.Table
    shards: list[int]


def _config_of(stage: str) -> Callable[[Recipe], dict]:
    return lambda recipe: asdict(recipe.section(stage))


@dataclass(frozen=True)
class Stage:
    """`query` joins and orders the tables it `reads`, `fn(batch, recipe, model)` computes, `facts(recipe)` is what the rows depend on beside
    the stages above; `version` grows when the code's meaning changes. With `scan(recipe, facts)` the batch is what it laid down. `uses(recipe)`
    is the model that `fn` is given a way to open, `settings(recipe)` the variables that its query may ask for by getvariable()."""

    name: str
    version: int
    writes: tuple[str, ...]
    fn: Callable[..., Made]
    reads: tuple[str, ...] = ()
    query: str | Callable[[Recipe], str] = ""
    facts: Callable[[Recipe], dict] | None = None
    scan: Callable[[Recipe, dict], Iterator[Scanned]] | None = None
    uses: Callable[[Recipe], Uses] | None = None
    settings: Callable[[Recipe], dict[str, object]] | None = None


@dataclass(frozen=True)
class Run:
    """A run folder as a recipe wants it: its stages in order and where each lies."""

    path: Path
    recipe: Recipe
    stages: tuple[Stage, ...]
    planned: dict[str, Planned]
    shards: int

    def folder(self, stage: Stage) -> Path:
        return self.path / self.planned[stage.name].folder

    def above(self, stage: Stage) -> list[Stage]:
        """The stages before this one that add rows to a table it reads."""
        return [
            other for other in self.stages[: self.stages.index(stage)] if set(other.writes) & set(stage.reads)
        ]


def plan(path: Path, recipe: Recipe) -> Run:
    """The folders that a recipe asks for; reads the input's and the model's digests, makes nothing."""
    from engine.stages import STAGES

    stages = tuple(STAGES[name] for name in recipe.sections if name in STAGES)
    if not stages or stages[0].scan is None:
        raise UserError(
            "the recipe's first stage must be [prompts]: it brings the rows that all others work on"
        )
    planned: dict[str, Planned] = {}
    written: set[str] = set()
    for number, stage in enumerate(stages):
        if missing := set(stage.reads) - written - {"scores"}:
            raise UserError(
                f"[{stage.name}] reads {', '.join(sorted(missing))}, which no section above it makes"
            )
        written |= set(stage.writes)
        above = {
            other.name: planned[other.name].folder
            for other in stages[:number]
            if set(other.writes) & set(stage.reads)
        }
        own = (stage.facts or _config_of(stage.name))(recipe)
        facts = json.loads(json.dumps({"stage": stage.name, "version": stage.version, "above": above} | own))
        planned[stage.name] = Planned(stage.name, f"{stage.name}-{fingerprint(facts)}", facts)
    return Run(path, recipe, stages, planned, planned[stages[0].name].facts["shards"])


@contextlib.contextmanager
def opened(run: Run) -> Iterator[None]:
    """The run folder, ours alone; what killed runs left half written is swept away and the plan is written down."""
    with locked(run.path, "engine precompute"):
        sweep(run.path)
        for stage in run.stages:
            folder = run.folder(stage)
            folder.mkdir(exist_ok=True)
            sweep(folder)
            if not (folder / "facts.json").exists():
                commit_json(folder / "facts.json", run.planned[stage.name].facts)
        commit_bytes(run.path / "recipe.toml", dump(run.recipe))
        write_plan(run.path, list(run.planned.values()), run.shards)
        yield


def current(run: Run, stage: Stage, shard: int, above: dict[str, str]) -> Marker | None:
    """The shard's marker, if its files are there and it was made from the shards that are there now."""
    folder = run.folder(stage)
    marker = read_marker(folder, shard)
    if (
        marker is None
        or marker.made_from != above
        or not all((folder / file.name).exists() for file in marker.files)
    ):
        return None
    return marker


def missing(run: Run) -> dict[int, list[Stage]]:
    """What is still to be made: shard -> stages. Two files a shard and stage are looked at, none is read through."""
    result: dict[int, list[Stage]] = {}
    for shard in range(run.shards):
        digests: dict[str, str] = {}
        for number, stage in enumerate(run.stages):
            made_from = {other.name: digests[other.name] for other in run.above(stage)}
            marker = current(run, stage, shard, made_from)
            if marker is None:
                result[shard] = list(run.stages[number:])
                break
            digests[stage.name] = marker.digest
    return result


def make(
    run: Run,
    shard: int,
    stages: Collection[Stage],
    model: Callable[[Stage], Model],
    done: Callable[[Stage, Marker], None],
) -> None:
    """One shard through some of the stages, what is there already left as it is; `model(stage)` opens the model that the stage uses."""
    digests: dict[str, str] = {}
    for stage in run.stages:
        made_from = {other.name: digests[other.name] for other in run.above(stage)}
        marker = current(run, stage, shard, made_from)
        if marker is None and stage not in stages:
            return
        if marker is None:
            made = stage.fn(_batch(run, stage, shard), run.recipe, functools.partial(model, stage))
            marker = _commit(run.folder(stage), shard, made, made_from)
            done(stage, marker)
        digests[stage.name] = marker.digest


def _batch(run: Run, stage: Stage, shard: int) -> pa.Table:
    if stage.scan:
        return _laid(run.folder(stage), shard)
    query = stage.query if isinstance(stage.query, str) else stage.query(run.recipe)
    tables = {name: read_shard(run, name, shard, run.above(stage)) for name in stage.reads}
    return sql.over(tables, query, f"[{stage.name}]", stage.settings(run.recipe) if stage.settings else {})


def read_shard(run: Run, table: str, shard: int, stages: list[Stage]) -> pa.Table:
    """All rows of a table in one shard, from the stages named, each file checked against its marker."""
    parts = [TABLES[table].empty_table()]
    for stage in stages:
        marker = read_marker(run.folder(stage), shard)
        assert marker is not None, f"{stage.name} {shard} is read before it is made"
        parts += [read_file(run.folder(stage), file) for file in marker.files if file.table == table]
    return pa.concat_tables(parts)


def read_file(folder: Path, file: File) -> pa.Table:
    return pq.read_table(
        verify(folder, file), schema=TABLES[file.table], page_checksum_verification=True, partitioning=None
    )


def _commit(folder: Path, shard: int, made: Made, made_from: dict[str, str]) -> Marker:
    """Writes a shard's files, then the marker that makes them real. A table without rows has no file."""
    files = []
    for name, rows in made.tables.items():
        if len(rows):
            path = folder / f"{shard_name(shard)}.{name}.parquet"
            with committed(path) as temporary:
                write_parquet(rows, temporary)
            files.append(File(path.name, name, len(rows), sha256_file(path)))
    marker = Marker(
        shard, tuple(files), made_from, {name: count for name, count in made.counts.items() if count}
    )
    marker_path(folder, shard).unlink(missing_ok=True)
    write_marker(folder, marker)
    return marker


def write_parquet(rows: pa.Table, path: Path) -> None:
    """zstd, page checksums on; the same rows give the same bytes."""
    names = [
        f"{name}.list.element" if pa.types.is_list(rows.field(name).type) else name
        for name in rows.column_names
    ]
    split = [name for name in names if name in _SPLIT]
    pq.write_table(
        rows,
        path,
        compression="zstd",
        row_group_size=_ROW_GROUP,
        write_page_checksum=True,
        use_dictionary=[name for name in names if name not in split],
        use_byte_stream_split=split,
    )


def finish(run: Run) -> dict[str, dict]:
    """Writes the manifest of every stage, once all its shards are there; stage -> manifest."""
    manifests = {}
    for stage in run.stages:
        folder = run.folder(stage)
        markers = [read_marker(folder, shard) for shard in range(run.shards)]
        manifests[stage.name] = write_manifest(
            folder, run.planned[stage.name].facts, [marker for marker in markers if marker]
        )
        shutil.rmtree(folder / "scan", ignore_errors=True)
    return manifests


def finished(run: Run) -> dict[str, dict]:
    """The manifests of a run in which nothing is missing, written if the last run was killed just before."""
    if all((run.folder(stage) / "manifest.json").exists() for stage in run.stages):
        return {stage.name: read_json(run.folder(stage) / "manifest.json") for stage in run.stages}
    return finish(run)


# The scan: rows from outside, laid down by shard in one pass.


def lay(run: Run, wanted: set[int], report: Callable[[int], None]) -> None:
    """Reads all input once and lays each row down in its shard's file, for the shards wanted. A scan that was cut off starts again."""
    stage = run.stages[0]
    assert stage.scan is not None
    folder = run.folder(stage) / "scan"
    done = folder / "done.json"
    if done.exists() and wanted <= set(read_json(done)["shards"]):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    waiting: dict[int, list[pa.Table]] = {}
    held = 0
    for scanned in stage.scan(run.recipe, run.planned[stage.name].facts):
        shards = pa.array(scanned.shards, pa.int32())
        order = pa.compute.sort_indices(shards)  # stable: the rows of a shard keep the input's order
        sorted_rows, sorted_shards = scanned.rows.take(order), shards.take(order).to_numpy()
        cuts = [
            0,
            *(1 + i for i in range(len(sorted_shards) - 1) if sorted_shards[i] != sorted_shards[i + 1]),
            len(sorted_shards),
        ]
        for begin, end in zip(cuts, cuts[1:], strict=False):
            if int(sorted_shards[begin]) in wanted:
                waiting.setdefault(int(sorted_shards[begin]), []).append(
                    sorted_rows.slice(begin, end - begin)
                )
        held += scanned.rows.nbytes
        if held >= _SCAN_BUFFER:
            _flush(folder, waiting)
            held = 0
        report(len(scanned.shards))
    _flush(folder, waiting)
    for path in folder.glob("*.arrows"):
        sync_file(path)
    commit_json(done, {"shards": sorted(wanted)})


def _flush(folder: Path, waiting: dict[int, list[pa.Table]]) -> None:
    for shard, tables in waiting.items():
        rows = pa.concat_tables(tables).combine_chunks()
        with (
            open(folder / f"{shard_name(shard)}.arrows", "ab") as file,
            pa.ipc.new_stream(file, rows.schema) as stream,
        ):
            stream.write_table(rows)
    waiting.clear()


def _laid(folder: Path, shard: int) -> pa.Table:
    """The rows laid down for a shard: Arrow streams one after another in one file."""
    path, parts = folder / "scan" / f"{shard_name(shard)}.arrows", []
    if path.exists():
        with pa.memory_map(str(path)) as file:
            while file.tell() < file.size():
                with pa.ipc.open_stream(file) as stream:
                    parts.append(stream.read_all())
    return pa.concat_tables(parts) if parts else pa.table({"reason": pa.array([], pa.string())})


def what_changed(run: Run, stage: Stage) -> list[tuple[str, list[str]]]:
    """Other folders of the stage in this run, each with the facts in which it differs from what the recipe asks for now."""
    found = []
    for folder in sorted(run.path.glob(f"{stage.name}-*")):
        if folder.name != run.planned[stage.name].folder and (folder / "facts.json").exists():
            found.append(
                (folder.name, difference(read_json(folder / "facts.json"), run.planned[stage.name].facts))
            )
    return found
