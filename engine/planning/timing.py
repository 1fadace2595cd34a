"""How long a run takes, and what a kill costs.

A worker takes a shard through the stages of a phase one after another, and a stage of a shard is written
when it is done. So a phase takes as many rounds as a worker has shards, and a kill costs each worker a stage
of a shard at most.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.planning.whole import WholeStage


@dataclass(frozen=True)
class StageTime:
    """Seconds of one worker for all shards: `own` of the stage's code, `model` of its model, None where that
    is not known; `shard`: of both, for one shard."""

    name: str
    own: float
    model: float | None
    shard: float | None


@dataclass(frozen=True)
class RunTime:
    """The whole run by so many workers. `reading`: seconds of the scan; `seconds`: in all, None where the
    time of a model is not known; `at_work`: of them those after the scan, in which devices are wanted;
    `kill`: that a kill costs each worker at most."""

    workers: int
    reading: float
    stages: tuple[StageTime, ...]
    seconds: float | None
    at_work: float | None
    kill: float | None


def time_of(
    stages: Sequence[WholeStage],
    shards: int,
    workers: int,
    reading: float,
    model_seconds: Callable[[WholeStage], float | None],
) -> RunTime:
    """`reading`: seconds of the scan; `model_seconds`: of a stage's model for all shards, by one worker."""
    times: list[StageTime] = []
    before = reading if stages[0].there < shards else 0.0
    at_work = 0.0
    is_known = True
    for stage in stages:
        model = model_seconds(stage)
        shard = None
        if model is None:
            is_known = False
        else:
            # With vLLM the next shards' code runs while the model works on this one.
            both = max(model, stage.seconds) if stage.backend == "vllm" else model + stage.seconds
            shard = both / shards
            left = max(0, shards - stage.there)
            at_work += math.ceil(left / workers) * shard
        times.append(StageTime(stage.name, stage.seconds, model, shard))
    kill = max((time.shard or 0.0 for time in times), default=0.0)
    return RunTime(
        workers=workers,
        reading=reading,
        stages=tuple(times),
        seconds=before + at_work if is_known else None,
        at_work=at_work if is_known else None,
        kill=kill if is_known else None,
    )
