"""What was made from what: for each stage what it was made of, its rows, its rejects, its time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine import clocks
from engine.cells import number
from engine.clocks import Spent
from engine.table_files import RunFiles
from schemas.amounts import duration
from schemas.manifest import Facts, Finished, Planned
from schemas.printable import one_line
from schemas.redaction import redacted
from schemas.store import Store


@dataclass(frozen=True)
class Stage:
    """A stage of a run, in words."""

    name: str
    folder: str
    shards: str  # 3 of 4
    rows: str
    rejects: str
    made_of: str  # inputs, the model
    work: str  # what its model did, how long and how fast


@dataclass(frozen=True)
class Made:
    """What a run holds. `rows`: of each table, over all stages."""

    stages: list[Stage]
    rows: Mapping[str, int]
    time: str
    is_finished: bool


def made(run: Store, files: RunFiles) -> Made:
    """What a run holds. `files`: what of it was finished at one moment."""
    worked = clocks.read(run)
    stages: list[Stage] = []
    rows: dict[str, int] = {}
    are_finished = True
    for stage, look in files.stages():
        by_table = dict(look.shards.rows_by_table())
        for table, count in by_table.items():
            rows[table] = rows.get(table, 0) + count
        are_finished = are_finished and len(look.shards) == files.shards
        stages.append(_stage(stage, look, files.shards, worked.stages.get(stage.stage)))
    return Made(stages, rows, _time_text(worked), are_finished)


def _stage(stage: Planned, look: Finished, shards: int, spent: Spent | None) -> Stage:
    counts = dict(look.shards.rows_by_table())
    rejects = counts.pop("rejects", 0)
    return Stage(
        name=stage.stage,
        folder=stage.folder,
        shards=f"{len(look.shards):,} of {shards:,}",
        rows=", ".join(f"{count:,} {table}" for table, count in sorted(counts.items())) or "none",
        rejects=f"{rejects:,}" if rejects else "",
        made_of=_made_of(stage.facts),
        work=_work_text(spent),
    )


def _made_of(facts: Facts) -> str:
    """The inputs of a stage and its model's weights, by their digests."""
    said: list[str] = []
    inputs: Any = facts.get("input")
    if isinstance(inputs, Mapping):
        for name, digest in inputs.items():
            said.append(f"{one_line(redacted(name))} (sha256 {str(digest)[:12]})")
    model: Any = facts.get("model")
    if isinstance(model, Mapping):
        said.append(f"model: weights {model.get('weights', '?')}, {model.get('dtype', '?')}")
    elif model:
        said.append(f"model: weights {model}")
    return "; ".join(said)


def _work_text(spent: Spent | None) -> str:
    """What a stage's model did; nothing where it has none, or nobody wrote it down."""
    if spent is None or not spent.responses or not spent.seconds:
        return ""
    said = f"{spent.responses:,} responses in {duration(spent.seconds)}"
    said += f", {number(spent.responses / spent.seconds)}/s"
    if spent.tokens:
        said += f", {number(spent.tokens / spent.seconds)} tokens/s"
    return said


def _time_text(worked: clocks.Worked) -> str:
    """How long all commands worked; nothing where none wrote it down."""
    if not worked.commands:
        return ""
    commands = "one command" if worked.commands == 1 else f"{worked.commands:,} commands"
    return f"begun {worked.began}; {duration(worked.seconds)} of work by {commands}"
