"""plan.json of a run's folder: the folders that the last `engine precompute` made or was making.

It also holds what must not change while a run goes on: the recipe it was planned by, and a model's threads.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from schemas.errors import UserError
from schemas.manifest import PLAN, Planned, folder_name
from schemas.records import damaged, read_record, sealed_bytes
from schemas.store import Store


@dataclass(frozen=True)
class _Plan:
    """plan.json. `recipe`: sha256 of the recipe beside it; `threads`: of a model on the CPU."""

    shards: int
    stages: tuple[Planned, ...]
    recipe: str | None = None
    threads: int | None = None


def write_plan(
    run: Store,
    stages: Iterable[Planned],
    shards: int,
    recipe: str | None = None,
    threads: int | None = None,
) -> None:
    """Write down what the run is to hold now, the sha256 of the recipe that it was planned by, and a model's
    threads on the CPU (engine/threads.py)."""
    plan: dict[str, Any] = {"shards": shards, "stages": [asdict(stage) for stage in stages]}
    if recipe is not None:
        plan["recipe"] = recipe
    if threads is not None:
        plan["threads"] = threads
    run.put(PLAN, sealed_bytes(plan))


def _is_newer_than_seals(plan: _Plan) -> bool:
    return plan.recipe is not None or plan.threads is not None


def _read_plan(run: Store) -> _Plan:
    plan = read_record(run, PLAN, _Plan, must_be_sealed=_is_newer_than_seals)
    for stage in plan.stages:
        if not re.fullmatch("[a-z_]+", stage.stage) or stage.folder != folder_name(stage.stage, stage.facts):
            what = f"the folder {ascii(stage.folder)[:80]} is not the one that the facts of its stage name"
            raise damaged(run.where(PLAN), what)
    return plan


def read_plan(run: Store) -> tuple[list[Planned], int]:
    """The stages in order of execution, and the number of shards. Raises UserError for no run folder."""
    if not run.exists(PLAN):
        raise UserError(
            f"{run} is not a run folder (it has no plan.json); "
            f"make one with `engine precompute RECIPE -o {run}`"
        )
    plan = _read_plan(run)
    return list(plan.stages), plan.shards


def planned_recipe(run: Store) -> str | None:
    """The sha256 of the recipe that a run was planned by; None where it is not known, or this is no run."""
    return _read_plan(run).recipe if run.exists(PLAN) else None


def planned_threads(run: Store) -> int | None:
    """The threads of a model on the CPU with which the run was begun; None where no plan says."""
    if not run.exists(PLAN):
        return None
    try:
        return _read_plan(run).threads
    except UserError:  # damaged: it is about to be written again
        return None
