"""The libraries that a stage's shards come from: what is said of them, and what is written down."""

from collections.abc import Callable

from engine.executors.phases import Gaps
from engine.plan import Run
from engine.stage import Stage
from schemas import versions
from schemas.manifest import marker_names


def libraries(run: Run, stage: Stage) -> dict[str, str]:
    """The libraries that the stage's rows come from, in the versions of this machine; mostly none."""
    packages: set[str] = set()
    model = run.models.get(stage.name)
    if model is not None:
        packages |= set(versions.ON_VLLM if model.spec.backend == "vllm" else versions.ON_TORCH)
    if stage.libraries is not None:
        packages |= stage.libraries(run.config(stage))
    return versions.here(packages)


def remarks(run: Run, gaps: Gaps) -> list[str]:
    """A line for each stage that goes on with other versions than those that made what is there."""
    lines: list[str] = []
    for stage in _with_work(run, gaps):
        folder = run.folder(stage)
        if not marker_names(folder):
            continue
        others = versions.others(versions.read(folder), libraries(run, stage))
        if others:
            lines.append(
                f"{folder.name}: the shards that are there were made with {others}; "
                f"`engine verify {run.store}` says whether it matters"
            )
    return lines


def note(run: Run, gaps: Gaps, beside: bool) -> None:
    """Write down what makes the shards that are missing. `beside`: other commands are at work on the run."""
    for stage in _with_work(run, gaps):
        folder = run.folder(stage)
        goes_on = bool(marker_names(folder))
        versions.note(folder, libraries(run, stage), goes_on=goes_on, beside=beside)


def shown(run: Run) -> list[str]:
    """A line for each stage whose libraries are on record."""
    lines: list[str] = []
    for stage in run.stages:
        made = versions.read(run.folder(stage))
        others = versions.others(made, libraries(run, stage)) if made else ""
        if others:
            lines.append(
                f"{run.folder(stage).name}: made with {others}; "
                f"`engine verify {run.store}` says whether it matters"
            )
        elif made:
            lines.append(f"{run.folder(stage).name}: made with {versions.shown(made)}")
    return lines


def record(run: Run, stage: Stage, say: Callable[[str], None]) -> dict[str, object]:
    """The libraries that made a stage's rows and those that are here, for verify's record."""
    made = versions.read(run.folder(stage))
    now = libraries(run, stage)
    others = versions.others(made, now)
    if others:
        say(f"the log-probs were made with {others}")
    return {"made_with": made, "verified_with": now}


def _with_work(run: Run, gaps: Gaps) -> list[Stage]:
    names = {stage.name for stages in gaps.values() for stage in stages}
    return [stage for stage in run.stages if stage.name in names]
