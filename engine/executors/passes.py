"""All shards of a command through all phases, beside other commands that work on the same run.

A pass goes through the phases with the shards that nobody else has in hand. What others have is waited for
when nothing else is left: until it is made, or is to be had because its maker has died.
"""

import logging
import time
from collections.abc import Collection, Iterable
from functools import partial

from engine.executors import Workforce, executor_of
from engine.executors.claimed import ClaimedShards
from engine.executors.phases import Gaps, Phase, phases
from engine.gaps import lacks
from engine.jobs import Job
from engine.plan import Run
from engine.progress import Progress
from engine.stage import Stage
from schemas.blocks import write_blocks

_LOOK = 2.0  # seconds between two looks at what others have in hand
_log = logging.getLogger("prefmill")


def execute(workforce: Workforce, run: Run, gaps: Gaps, job: Job, progress: Progress) -> None:
    """Make what the shards lack, or see that others make it. Raises UserError."""
    left: Gaps = dict(gaps)
    while left:
        with_others = _one_pass(workforce, run, left, job, progress)
        left = _still_lacking(run, with_others)
        if left:
            _wait(run, job, left)
            left = _still_lacking(run, left)


def _one_pass(workforce: Workforce, run: Run, gaps: Gaps, job: Job, progress: Progress) -> set[int]:
    """Take through all phases what nobody else has in hand; the shards that somebody had."""
    executor = executor_of(workforce)
    with_others: set[int] = set()
    for number, phase in enumerate(phases(run)):
        queue = _queue(gaps, phase, with_others)
        if not queue:
            continue
        shards = ClaimedShards(job, queue, partial(_write_blocks, run, phase))
        executor(
            run,
            number,
            shards,
            gaps=gaps,
            workers=workforce.workers,
            threads=workforce.threads,
            progress=progress,
        )
        with_others.update(shards.with_others)
    return with_others


def _write_blocks(run: Run, phase: Phase) -> None:
    """Sum up what is made of a phase, so that whoever looks at it meanwhile reads few files."""
    for stage in phase.stages:
        write_blocks(run.folder(stage), run.shards)


def _queue(gaps: Gaps, phase: Phase, without: Collection[int]) -> list[int]:
    """The shards that lack a stage of the phase, in order."""
    queue: list[int] = []
    for shard in sorted(gaps):
        if shard not in without and set(gaps[shard]) & set(phase.stages):
            queue.append(shard)
    return queue


def _still_lacking(run: Run, shards: Iterable[int]) -> dict[int, list[Stage]]:
    """Those of some shards that are not made yet, with what they lack."""
    found: dict[int, list[Stage]] = {}
    for shard in sorted(shards):
        stages = lacks(run, shard)
        if stages:
            found[shard] = stages
    return found


def _wait(run: Run, job: Job, shards: Collection[int]) -> None:
    """Wait until one of these shards is made, or is in nobody's hands."""
    holders = {shard: job.holder(shard) for shard in shards}
    for holder in {holder.token: holder for holder in holders.values() if holder}.values():
        _log.info("waiting for shards that %s makes", holder)
    while all(job.holder(shard) is not None and lacks(run, shard) for shard in shards):
        job.check()
        time.sleep(_LOOK)
