"""From a rehearsal to the whole run: rows, calls and tokens by how many prompts there are, bytes by files
that are written in memory as a run writes them."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from engine.make import write_parquet
from engine.plan import Run
from engine.planning.rehearsal import Rehearsed
from engine.planning.sampling import Sample
from engine.planning.stand_in import Asked
from schemas.manifest import marker_names
from schemas.tables import stored


@dataclass(frozen=True)
class TableSize:
    """What a stage adds to a table."""

    rows: float
    bytes: float


@dataclass(frozen=True)
class WholeStage:
    """A stage of the whole run. `there`: shards that the run folder has; `model`, `backend`, `server`: who is
    asked, if anybody is; `seconds`: of its own work here, on one core or more; `said`: see Rehearsed."""

    name: str
    folder: str
    there: int
    rows_in: float
    tables: Mapping[str, TableSize]
    rejects: Mapping[str, float]
    counts: Mapping[str, float]
    model: str
    backend: str
    server: str
    asked: Asked
    seconds: float
    said: str | None


@dataclass(frozen=True)
class Scale:
    """How many of the whole a prompt of the rehearsal stands for, and a row of the first stage.

    `by_rows`: for what the rows bring, where rows of one prompt lie too far apart to be in the sample
    together."""

    of_rows: float
    of_prompts_table: float
    by_prompts: float
    by_rows: float


def scale_of(sample: Sample, rehearsed: Sequence[Rehearsed], prompts: int) -> Scale:
    """`prompts`: those that went below the first stage."""
    first = rehearsed[0]
    in_sample = len(first.tables["prompts"])
    by_prompts = sample.prompts / max(1, min(prompts, in_sample))
    rows_out = sample.weight * (len(sample.rows) - first.counts.get("rejects", 0)) - sample.repeated
    a_prompt = rows_out / max(1.0, sample.prompts)
    a_prompt_of_sample = first.counts.get("rows_out", 0) / max(1, in_sample)
    by_rows = by_prompts * a_prompt / a_prompt_of_sample if a_prompt_of_sample else by_prompts
    return Scale(sample.weight, sample.prompts / max(1, in_sample), by_prompts, by_rows)


def whole_of(run: Run, sample: Sample, rehearsed: Sequence[Rehearsed], prompts: int) -> list[WholeStage]:
    """The stages of the whole run."""
    scale = scale_of(sample, rehearsed, prompts)
    names = {stage.name for stage in run.stages}
    stages: list[WholeStage] = []
    for one in rehearsed:
        if one.stage.scan:
            factor = scale.of_rows
        elif one.stage.name == "given" or ("given" in names and "generate" not in names):
            factor = scale.by_rows
        else:
            factor = scale.by_prompts
        stages.append(_whole(run, one, factor, scale))
    if sample.prompts:
        stages[0] = _with_repeats(stages[0], sample)
    return stages


def _whole(run: Run, one: Rehearsed, factor: float, scale: Scale) -> WholeStage:
    stage = one.stage
    tables: dict[str, TableSize] = {}
    for name, rows in one.tables.items():
        if len(rows):
            own = scale.of_prompts_table if name == "prompts" else factor
            tables[name] = _size(rows, own * len(rows), run.shards)
    resolved = run.models.get(stage.name)
    endpoint = run.endpoint(stage)
    planned = run.planned[stage.name]
    return WholeStage(
        name=stage.name,
        folder=planned.folder,
        there=len(marker_names(run.folder(stage))),
        rows_in=factor * len(one.batch),
        tables=tables,
        rejects={reason: factor * count for reason, count in one.rejects.most_common()},
        counts={name: factor * count for name, count in one.counts.items()},
        model=resolved.spec.config.name if resolved else "",
        backend=resolved.spec.backend if resolved else "",
        server=endpoint.place if endpoint else "",
        asked=scaled(one.asked, factor),
        seconds=factor * one.seconds,
        said=one.said,
    )


def scaled(asked: Asked, factor: float) -> Asked:
    """So many times as much; calls stay, since they are by shard."""
    values = {field.name: getattr(asked, field.name) for field in dataclasses.fields(asked)}
    for name in values.keys() - {"calls"}:
        values[name] = values[name] * factor
    return Asked(**values)


def _with_repeats(first: WholeStage, sample: Sample) -> WholeStage:
    """The first stage with the rows that say what another says, wherever that one is."""
    counts = dict(first.counts)
    counts["duplicates"] = sample.repeated
    counts["rows_out"] = counts.get("rows_in", 0.0) - counts.get("rejects", 0.0) - sample.repeated
    return dataclasses.replace(first, counts=counts)


def _size(rows: pa.Table, total: float, shards: int) -> TableSize:
    """So many rows in the files of so many shards; a shard without rows has no file."""
    files = shards * (1 - (1 - 1 / shards) ** total) if shards > 1 else 1.0
    return TableSize(total, files * file_bytes(rows, total / files))


def file_bytes(rows: pa.Table, wanted: float) -> float:
    """The bytes of a file of so many rows like these, as a run writes them.

    Where there are fewer rows, what the second half of them adds is what each further one does."""
    count = min(len(rows), max(1, round(wanted)))
    size = _written(rows.slice(0, count))
    if count == round(wanted) or count < 2:
        return size * wanted / count
    half = count // 2
    a_row = (size - _written(rows.slice(0, half))) / (count - half)
    return size + (wanted - count) * max(0.0, a_row)


def _written(rows: pa.Table) -> int:
    """Bytes of the rows in a file."""
    buffer = io.BytesIO()
    write_parquet(stored(rows), buffer)
    return buffer.getbuffer().nbytes
