"""The rehearsal with the models themselves: what they say, and how long they take here.

First a few prompts, each stage twice: the first time prepares what is prepared at a first call. Models are
loaded before a call is timed, and one at a time is held, so one of several is loaded twice. Then as many as
half a minute allows, at most those of a shard, since a call of a stage has a shard's rows.

A step of sampling takes about as long for one sequence as for a few. So of a stage that samples the time of
more sequences, up to as many as run side by side, follows from what those of the second look took beyond the
first; from there on it grows with their number, as that of all else does.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from engine.plan import Run
from engine.planning.casts import Models
from engine.planning.rehearsal import Rehearsed, rehearse

SECONDS = 30.0
_FIRST = 2  # prompts of the first look
_MARGIN = 0.8  # of the time that is left, used: a guess from few prompts is one


@dataclass(frozen=True)
class Probed:
    """The rehearsal with the real models on `prompts` prompts, and that of the first look.

    `loading`: seconds until they had first answered, less those of the answers."""

    rehearsed: Sequence[Rehearsed]
    first: Sequence[Rehearsed]
    prompts: int
    loading: float

    def seconds_of(self, stage: str, sequences: float, at_once: int) -> float:
        """Of a call that samples so many sequences, `at_once` of them side by side."""
        (small,) = [one.asked for one in self.first if one.stage.name == stage]
        (large,) = [one.asked for one in self.rehearsed if one.stage.name == stage]
        assert large.generated, "a stage that samples nothing grows with its rows"
        more = large.generated - small.generated
        if large.generated >= at_once or more <= 0 or sequences <= large.generated:
            return large.seconds * sequences / large.generated
        a_sequence = max(0.0, large.seconds - small.seconds) / more
        full = min(sequences, at_once)
        return (large.seconds + (full - large.generated) * a_sequence) * max(1.0, sequences / at_once)


def probe(run: Run, rows: pa.Table, most: int, threads: int, seconds: float = SECONDS) -> Probed:
    """Rehearse with the models on up to `most` prompts for about so many seconds, loading not among them.

    `threads`: of a model on the CPU. Raises UserError as the stages do."""
    cast = Models(run, threads)
    try:
        prompts = min(_FIRST, most)
        begin = time.perf_counter()
        first = rehearse(run, rows, prompts, cast, times=2)
        took = sum(one.seconds + one.asked.seconds for one in first)
        loading = time.perf_counter() - begin - 2 * took
        rehearsed = first
        affordable = int(prompts * _MARGIN * (seconds - took) / max(took, 1e-3))
        more = min(most, max(affordable, 2 * prompts))
        if more > prompts:
            prompts = more
            rehearsed = rehearse(run, rows, prompts, cast)
        return Probed(rehearsed, first, prompts, max(0.0, loading))
    finally:
        cast.close()
