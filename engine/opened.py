"""A command begins on a run: alone, or beside others that work on the same plan.

Whoever comes first removes what killed commands left half written, and writes down the plan and what each
folder is made from. Whoever comes while others are at work must have the same plan.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from engine.jobs import SETTING_UP, WHO, Job, at_work
from engine.plan import Run
from schemas.differences import difference
from schemas.errors import UserError
from schemas.leases import Holder, awaited
from schemas.manifest import FACTS, RECIPE, Facts, json_bytes
from schemas.plans import planned_threads, read_plan, write_plan
from schemas.recipe import dump
from schemas.store import Store


@contextlib.contextmanager
def opened(
    run: Run, threads_of: Callable[[Run], int] = lambda run: 1, shares: bool = False
) -> Iterator[tuple[Job, int]]:
    """Be at work on a run; gives this command as a job, and the threads of a model on the CPU.

    `threads_of`: of a run that nobody else is at work on (engine/threads.py). `shares`: beside any number of
    commands that share it; else beside those alone. Raises UserError where another command does not share."""
    with _alone_among_those_that_do_not_share(run.store, shares), contextlib.ExitStack() as at_the_end:
        job = Job(run.store)
        with awaited(run.store, SETTING_UP, WHO):
            threads = _set_up(run, job, threads_of)
            job.begin()  # from here on the plan is one that others rely on
            at_the_end.enter_context(at_work(job))
        yield job, threads


def _alone_among_those_that_do_not_share(store: Store, shares: bool) -> AbstractContextManager[object]:
    return contextlib.nullcontext() if shares else store.lock(WHO)


def _set_up(run: Run, job: Job, threads_of: Callable[[Run], int]) -> int:
    others = job.others()
    if others:
        _check_same_plan(run, others)
        return planned_threads(run.store) or threads_of(run)
    job.remove_what_the_dead_left()
    run.store.sweep()
    for stage in run.stages:
        folder = run.folder(stage)
        folder.sweep()
        _put_facts(folder, run.planned[stage.name].facts)
    recipe = dump(run.recipe)
    run.store.put(RECIPE, recipe)
    threads = threads_of(run)
    recipe_digest = hashlib.sha256(recipe).hexdigest()
    write_plan(run.store, run.planned.values(), run.shards, recipe_digest, threads)
    return threads


class OtherPlan(UserError):
    """Another command is at work on the run by another plan than this one's."""


def _check_same_plan(run: Run, others: list[Holder]) -> None:
    """Raise UserError where the commands at work make other folders than this one would."""
    planned, _ = read_plan(run.store)
    theirs = {stage.stage: dict(stage.facts) for stage in planned}
    ours = {stage.stage: dict(stage.facts) for stage in run.planned.values()}
    if ours != theirs:
        for facts in (*theirs.values(), *ours.values()):
            facts.pop("above", None)  # names folders, by facts that are named themselves
        differs = "; ".join(difference(theirs, ours))
        raise OtherPlan(
            f"{run.store}: {others[0]} is at work in it by another recipe: {differs}: wait for it, "
            "give the same recipe and settings, or take another folder"
        )


def _put_facts(folder: Store, facts: Facts) -> None:
    """Write down what a folder is made from; its name says that what lies there otherwise is damaged."""
    data = json_bytes(facts)
    if folder.put_if_absent(FACTS, data):
        return
    if folder.size(FACTS) != len(data) or folder.read(FACTS) != data:
        folder.put(FACTS, data)
