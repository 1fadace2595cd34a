"""The end of `engine precompute`: what it made as a document, where it lies, and what to do next."""

import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.errors import UserError
from schemas.recipe import load
from schemas.recipe_paths import recipe_file

if TYPE_CHECKING:
    from engine.plan import Run

_PAIRS = "pairs"


@dataclass(frozen=True)
class Made:
    """A run of which every shard is there. `manifests`: stage -> its rows by table, and its counts."""

    run: "Run"
    manifests: Mapping[str, dict[str, Any]]


def document(made: Made, seconds: float) -> dict[str, object]:
    """For JSON: each stage's folder, shards, rows by table, rejects by reason; `seconds`: of this command."""
    from engine import outcome

    run = made.run
    stages: list[dict[str, object]] = []
    for stage in run.stages:
        manifest = made.manifests[stage.name]
        reasons: Mapping[str, int] = {}
        if manifest["counts"].get("rejects"):
            reasons, _ = outcome.refused(run, stage)
        stages.append(
            {
                "stage": stage.name,
                "folder": run.folder(stage).name,
                "shards": run.shards,
                "rows": manifest["rows"],
                "rejects": reasons,
                "counts": manifest["counts"],
            }
        )
    return _of_run(run, seconds) | {"complete": True, "shards_left": 0, "stages": stages}


def document_of_part(run: "Run", left: int, seconds: float) -> dict[str, object]:
    """The same where other commands still have shards to make."""
    return _of_run(run, seconds) | {"complete": False, "shards_left": left, "stages": []}


def _of_run(run: "Run", seconds: float) -> dict[str, object]:
    return {"run": str(run.store), "shards": run.shards, "seconds": round(seconds, 3)}


def lines(made: Made, where: str, recipe: str, settings: Sequence[str]) -> Iterator[str]:
    """Where the run lies and which commands come next; `where`, `recipe`, `settings`: as they were typed."""
    run = made.run
    rows = {stage.name: made.manifests[stage.name]["rows"] for stage in run.stages}
    rejects = sum(of_stage.get("rejects", 0) for of_stage in rows.values())
    yield f"run folder: {where}"
    with_pairs = [stage for stage in run.stages if rows[stage.name].get(_PAIRS)]
    for stage in with_pairs:
        yield f"pairs: {rows[stage.name][_PAIRS]:,} in {run.folder(stage).where()}"
    yield f"rejects: {rejects:,}{f' (engine sql {shlex.quote(where)} rejects)' if rejects else ''}"
    yield "next:"
    for words in _next(run, bool(with_pairs), where, recipe, settings):
        yield f"  {words}"


def _next(run: "Run", has_pairs: bool, where: str, recipe: str, settings: Sequence[str]) -> Iterator[str]:
    """The commands, as a shell takes them."""
    quoted = shlex.quote(where)
    if not has_pairs:
        yield f"engine status {quoted}"
        yield f'engine sql {quoted} "select * from {run.stages[-1].writes[0]} limit 3"'
        return
    yield f"engine show {quoted}"
    yield f'engine sql {quoted} "select * from pairs_text limit 3"'
    yield f"engine report {quoted} -o report.html"
    if "train" in run.recipe.sections:
        training = _training(where, recipe, settings)
        if training:
            yield shlex.join(training)


def _training(where: str, recipe: str, settings: Sequence[str]) -> list[str]:
    """The words of `trainer run`, with those settings that are the trainer's; none where it cannot be told.

    A model that the recipe's file names itself is the trainer's, unless the settings say otherwise again."""
    of_train = [setting for setting in settings if setting.startswith(("train.", "seed="))]
    of_model = [setting for setting in settings if setting.startswith("model.")]
    try:
        if not stat.S_ISREG(recipe_file(recipe).stat().st_mode):
            return []  # a pipe is read once
        read = load(recipe, of_train)
    except (UserError, OSError):
        return []
    names_model = "model" in read.sections and bool(read.section("model").name)
    words = ["trainer", "run", recipe, "-o", where]
    for setting in (*of_train, *(of_model if names_model else ())):
        words += ["--set", setting]
    return words
