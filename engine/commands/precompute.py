"""`engine precompute`: make what is missing of a recipe's stages, and say what came of it."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine import executors
from engine.executors import Workforce
from schemas.commands import RECIPE_ARGUMENT, run_option, settings_option, trust_option
from schemas.loading import no_garbage
from schemas.manifest import marker_names
from schemas.recipe import Recipe, load
from schemas.screen import say
from schemas.store import Store, open_store

if TYPE_CHECKING:
    from engine.executors.phases import Gaps
    from engine.jobs import Job
    from engine.part import Part
    from engine.plan import Run

# The counts of a stage that are shown, in this order; in between those whose names begin so.
_COUNTS_FIRST = (
    "train",
    "test",
    "rewritten",
    "unscored",
    "low_mass",
    "disagreed",
    "unfinished",
    "with_unfinished",
    "truncated",
    "holding_special_tokens",
)
_COUNT_PREFIXES = ("skipped_", "fallback_")
_COUNTS_LAST = (
    "held_out",
    "held_out_though_also_in_train",
    "references_that_differ",
    "ratings_tie",
    "ratings_contradict",
    "asked_again_one_by_one",
    "rejects",
    "repeated",
    "duplicates",
)


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
      engine precompute pipelines/recipes/dpo.toml -o runs/hh \\
          --set prompts.source=hh-harmless.jsonl.gz --set model.name=stories260K
    """
    precompute(run, load(recipe, settings), workers, executor, trust, part)


def precompute(
    where: str | Path | Store,
    recipe: Recipe,
    workers: int,
    executor: str = executors.DEFAULT,
    trust: bool = False,
    part: str = "",
) -> None:
    """Make what is missing in a run folder; see the command's help."""
    with no_garbage():
        from engine.inputs import check_apart
        from engine.opened import opened
        from engine.part import Part
        from engine.plan import plan
        from engine.threads import threads_of

    own = Part.of(part)
    check_apart(open_store(where), recipe)
    room = executors.room_of(executor)
    run = plan(where, recipe, own.jobs * (workers or room.workers))
    side_by_side = math.ceil(workers / room.machines)
    with opened(run, lambda run: threads_of(run, side_by_side), shares=bool(part)) as (job, threads):
        _make_what_is_missing(run, job, own, Workforce(executor, workers, threads), trust)


def _make_what_is_missing(run: "Run", job: "Job", own: "Part", workforce: Workforce, trust: bool) -> None:
    """Make this command's part of what the run lacks; and where then all is there, end the run."""
    from engine import trust as trusting
    from engine.gaps import Damage, missing
    from engine.make import take_back

    damages: list[Damage] = []
    gaps = missing(run, damages.append)
    in_work = {damage.shard for damage in damages if job.holder(damage.shard) is not None}
    damages = [damage for damage in damages if damage.shard not in in_work]
    own_gaps = {shard: stages for shard, stages in gaps.items() if shard in own.shards(run.shards)}
    if own_gaps:
        trusting.check(run, own_gaps, trust)
    for damage in damages:
        say(f"{damage.what}: {damage.done}")
    take_back(run, damages)
    if own_gaps:
        _announce(run, own_gaps)
    if own_gaps or not gaps:
        _scan(run, gaps)
    if own_gaps:
        _make(run, own_gaps, workforce, job)
    _end(run, own, nothing_to_do=not own_gaps)


def _end(run: "Run", own: "Part", nothing_to_do: bool) -> None:
    """Write the manifests if every shard is there, which may be the work of several commands."""
    from engine import outcome
    from engine.gaps import missing
    from engine.jobs import ENDING, WHO
    from engine.make import finish
    from schemas.leases import awaited

    still_missing = missing(run) if own.is_part else {}
    if still_missing:
        others = len(still_missing)
        say(f"{own}: all there; {others:,} of {run.shards:,} shards are for other commands to make")
        return
    with awaited(run.store, ENDING, WHO):
        manifests = finish(run, say)
    if nothing_to_do:
        say(f"{run.store}: nothing to do, all {run.shards} shards of {len(run.stages)} stages are there")
    _print_totals(run, manifests)
    outcome.check(run, manifests)


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
    from engine.commands.bars import MakingBar
    from engine.executors.passes import execute
    from engine.make import reopen
    from engine.plan import check_unchanged

    shards: Counter[str] = Counter()
    for stages in gaps.values():
        for stage in stages:
            shards[stage.name] += 1
            reopen(run, stage)
    check_unchanged(run)
    made_with.note(run, gaps)
    making = MakingBar(shards)
    try:
        execute(workforce, run, gaps, job, making)
    finally:
        making.close()


def _print_totals(run: "Run", manifests: Mapping[str, dict[str, Any]]) -> None:
    for stage in run.stages:
        manifest = manifests[stage.name]
        tables = sorted(name for name in manifest["rows"] if name != "rejects")
        rows = ", ".join(f"{manifest['rows'][name]:,} {name}" for name in tables)
        say(f"{run.folder(stage).name}: {rows or 'no rows'}{_counts_text(manifest['counts'])}")
    counts = manifests[run.stages[0].name]["counts"]
    rows_in = counts.get("rows_in", 0)
    rows_out = counts.get("rows_out", 0)
    rejects = counts.get("rejects", 0)
    duplicates = counts.get("duplicates", 0)
    say(f"rows in {rows_in:,} = rows out {rows_out:,} + rejects {rejects:,} + duplicates {duplicates:,}")
    _print_rejects(run, manifests)
    if 2 * rejects > rows_in:
        say(f"warning: {rejects:,} of {rows_in:,} rows were refused, more than half")


def _print_rejects(run: "Run", manifests: Mapping[str, dict[str, Any]]) -> None:
    """Why stages refused rows, and how to see them all; what a choice did not see."""
    from engine import outcome

    for stage in run.stages:
        unfinished = outcome.unfinished_text(stage, manifests[stage.name]["counts"])
        if unfinished:
            say(unfinished)
    with_rejects = [stage for stage in run.stages if manifests[stage.name]["counts"].get("rejects")]
    for stage in with_rejects:
        say(f"refused by [{stage.name}]: {outcome.rejects_text(run, stage)}")
    if with_rejects:
        query = "select stage, reason, file, line, detail from rejects"
        say(f'what was refused, and why: engine sql {run.store} "{query}"')


def _counts_text(counts: Mapping[str, int]) -> str:
    """What a stage counted, in brackets; empty where it counted nothing."""
    by_reason = sorted(name for name in counts if name.startswith(_COUNT_PREFIXES))
    names = [*_COUNTS_FIRST, *by_reason, *_COUNTS_LAST]
    shown = [f"{name.replace('_', ' ')} {counts[name]:,}" for name in names if counts.get(name)]
    if counts.get("masses"):
        mean_mass = counts.get("mass_in_thousandths", 0) / counts["masses"] / 1000
        shown.append(f"mean mass {mean_mass:.2f}")
    return f" ({', '.join(shown)})" if shown else ""
