"""`engine precompute`: make what is missing of a recipe's stages, and say what came of it."""

import math
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine import executors
from engine.commands import closing
from engine.commands.closing import Made
from engine.commands.totals import print_totals
from engine.executors import Workforce
from schemas.commands import (
    RECIPE_ARGUMENT,
    output_options,
    run_option,
    settings_option,
    trust_option,
)
from schemas.errors import UserError
from schemas.loading import no_garbage
from schemas.manifest import marker_names
from schemas.recipe import Recipe, load
from schemas.screen import give, say, warn
from schemas.store import Store, open_store

if TYPE_CHECKING:
    from engine.executors.phases import Gaps
    from engine.jobs import Job
    from engine.part import Part
    from engine.plan import Run


@click.command("precompute")
@RECIPE_ARGUMENT
@run_option("Run folder; what it holds is reused.")
@settings_option()
@click.option(
    "--workers",
    default=0,
    show_default="one for each device",
    type=click.IntRange(0),
    help="Processes that make shards side by side.",
)
@click.option(
    "--executor",
    default=executors.DEFAULT,
    show_default=True,
    type=click.Choice(list(executors.EXECUTORS)),
    help="Where shards are made.",
)
@click.option(
    "--shards",
    "part",
    default="",
    metavar="I::N",
    help="Make shards I, I+N, I+2N, … beside other commands with --shards on the same run.",
)
@trust_option()
@output_options()
def command(
    recipe: str,
    run: str,
    settings: tuple[str, ...],
    workers: int,
    executor: str,
    part: str,
    trust: bool,
) -> None:
    """Make all that a RECIPE's stages ask for, into a run folder.

    What is there is kept, what is missing is made; a run that was killed goes on where it was.

    \b
    Example:
      engine precompute dpo -o runs/hh \\
          --set prompts.source=hh-harmless.jsonl.gz --set model.name=stories260K
    """
    made = precompute(run, load(recipe, settings), workers, executor, trust, part)
    if made is not None:
        for line in closing.lines(made, run, recipe, settings):
            say(line)


def precompute(
    where: str | Path | Store,
    recipe: Recipe,
    workers: int,
    executor: str = executors.DEFAULT,
    trust: bool = False,
    part: str = "",
) -> Made | None:
    """Make what is missing in a run folder; see the command's help. None where others still make shards."""
    begun = time.monotonic()
    with no_garbage():
        from engine.inputs import check_apart
        from engine.jobs import Job
        from engine.opened import OtherPlan, opened
        from engine.part import Part
        from engine.plan import Run, plan
        from engine.threads import threads_of

    own = Part.of(part)
    check_apart(open_store(where), recipe)
    room = executors.room_of(executor)
    planned_for = own.jobs * (workers or room.workers)
    run = plan(where, recipe, planned_for)
    side_by_side = math.ceil(workers / room.machines)
    with ExitStack() as at_the_end:

        def begin(run: Run) -> tuple[Job, int]:
            threads_here = partial(threads_of, workers=side_by_side)
            return at_the_end.enter_context(opened(run, threads_here, shares=bool(part)))

        try:
            job, threads = begin(run)
        except OtherPlan:
            # A command that came at the same time began the run, and settled how many shards it has.
            run = plan(where, recipe, planned_for)
            job, threads = begin(run)
        workforce = Workforce(executor, workers, threads)
        return _make_what_is_missing(run, job, own, workforce, trust, begun)


def _make_what_is_missing(
    run: "Run", job: "Job", own: "Part", workforce: Workforce, trust: bool, begun: float
) -> Made | None:
    """Make this command's part of what the run lacks; and where then all is there, end the run."""
    from engine import trust as trusting
    from engine.gaps import Damage, missing
    from engine.make import take_back

    damages: list[Damage] = []
    gaps = missing(run, damages.append)
    own_shards = own.shards(run.shards)
    own_gaps = {shard: stages for shard, stages in gaps.items() if shard in own_shards}
    if own_gaps:
        trusting.check(run, own_gaps, trust)
    # What is damaged in another's part stays as it is: nobody might come who makes it again.
    own_damages = [damage for damage in damages if damage.shard in own_shards or damage.shard >= run.shards]
    with_others = take_back(run, own_damages, job, warn)
    if own_gaps:
        _announce(run, own_gaps)
    if own_gaps or not gaps:
        _scan(run, gaps)
    if own_gaps:
        _make(run, own_gaps, workforce, job)
    look_again = own.is_part or bool(with_others)
    return _end(run, own, look_again, nothing_to_do=not own_gaps, begun=begun)


def _end(run: "Run", own: "Part", look_again: bool, nothing_to_do: bool, begun: float) -> Made | None:
    """Write the manifests if every shard is there, which may be the work of several commands.

    `look_again`: shards may be missing, as others have or had them in hand. `begun`: when this command was,
    by the monotonic clock."""
    from engine import outcome
    from engine.gaps import missing
    from engine.jobs import ENDING, WHO
    from engine.make import finish
    from schemas.leases import awaited

    still_missing = missing(run) if look_again else {}
    own_missing = sorted(still_missing.keys() & set(own.shards(run.shards)))
    if own_missing:
        raise UserError(
            f"{run.store}: {len(own_missing):,} of the shards that this command was to make are damaged, or "
            f"were taken back by another one, the first is {own_missing[0]}: run the same command again"
        )
    if still_missing:
        others = len(still_missing)
        say(f"{own}: all there; {others:,} of {run.shards:,} shards are for other commands to make")
        give(lambda: closing.document_of_part(run, others, time.monotonic() - begun))
        return None
    with awaited(run.store, ENDING, WHO, lambda holder: say(f"waiting for {holder}, which ends the run")):
        manifests = finish(run, warn)
    if nothing_to_do:
        say(f"{run.store}: nothing to do, all {run.shards} shards of {len(run.stages)} stages are there")
    print_totals(run, manifests)
    made = Made(run, manifests)
    give(lambda: closing.document(made, time.monotonic() - begun))
    outcome.check(run, manifests)
    return made


def _announce(run: "Run", gaps: "Gaps") -> None:
    """Print which model makes what, what is there, and why folders of other settings do not serve."""
    from engine import made_with, preflight, trust
    from engine.executors.phases import phases
    from engine.plan import what_changed

    for phase in phases(run):
        if phase.model:
            names = ", ".join(stage.name for stage in phase.stages if stage.name in run.models)
            config = phase.model.spec.config
            backend = "vLLM" if phase.uses_vllm else "transformers"
            say(f"{names}: {config.name} on {backend}, {config.dtype}")
    for line in run.remarks:
        say(line)
    for stage in run.stages:
        endpoint = run.endpoint(stage)
        if endpoint is not None:
            say(f"{stage.name}: {endpoint.place}")
    for line in (*trust.said(run, gaps), *made_with.remarks(run, gaps)):
        say(line)
    trust.prepare(run, gaps)
    for remark in preflight.remarks(run, gaps):
        say(remark)
    for stage in run.stages:
        folder = run.folder(stage)
        made = len(marker_names(folder))
        if made:
            say(f"{folder.name}: {made} of {run.shards} shards there")
            continue
        say(f"{folder.name}: to make, {run.shards} shard{'s' if run.shards > 1 else ''}")
        for other, changes in what_changed(run, stage):
            say(f"  not {other}: {'; '.join(changes)}")


def _scan(run: "Run", gaps: "Gaps") -> None:
    """Read the input where shards are to be made of it, or the numbers of its rows are lost."""
    from engine.commands.bars import RowsBar
    from engine.gaps import must_count_again
    from engine.jobs import SCANNING, WHO
    from engine.scan import scan
    from schemas.leases import awaited

    to_scan = {shard for shard, stages in gaps.items() if run.stages[0] in stages}
    uncounted = None if to_scan else must_count_again(run)
    if not to_scan and not uncounted:
        return
    if uncounted:
        say(f"{uncounted}: the input is counted again")
    reading = RowsBar("reading")
    try:
        with awaited(run.store, SCANNING, WHO, lambda holder: say(f"{holder} reads the input")):
            scan(run, to_scan, reading.advance, say)
    finally:
        reading.close()


def _make(run: "Run", gaps: "Gaps", workforce: Workforce, job: "Job") -> None:
    """Make the shards."""
    from engine import made_with
    from engine.clocks import clocked
    from engine.commands.bars import MakingBar
    from engine.executors.passes import execute
    from engine.make import reopen
    from engine.plan import check_unchanged

    shards: Counter[str] = Counter()
    for stages in gaps.values():
        shards.update(stage.name for stage in stages)
    check_unchanged(run)
    for stage in run.stages:
        if shards[stage.name]:
            reopen(run, stage)
    made_with.note(run, gaps, beside=bool(job.others()))
    making = MakingBar(shards)
    try:
        with clocked(run.store, making.spent):
            execute(workforce, run, gaps, job, making)
    finally:
        making.close()
