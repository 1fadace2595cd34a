"""The best checkpoint by a metric of the evaluations (`train.metric_for_best_model`), which is kept too.

- An evaluation that is better than all before it saves a checkpoint of its step, so the best one is there.
  That is decided by the evaluations alone, as metrics.jsonl has them: a run that was killed decides the same.
- The start (step 0) does not count: it is the model that is there already.
- best.json names the best one of the checkpoints that are there. Pruning leaves that one.
- What is better is said by train.greater_is_better; `auto` is the rule of transformers' Trainer: a metric
  whose name ends with "loss" is better where it is lower, any other where it is higher.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import UserError, did_you_mean
from schemas.manifest import json_bytes
from schemas.screen import warn
from schemas.sealed import seal, unsealed
from schemas.sections import Train
from schemas.store import Store
from schemas.trainings import record
from trainer import checkpoint, metrics
from trainer.disk import at
from trainer.pairs import Pairs

BEST = "best.json"
_PREFIX = "eval_"


def check(config: Train, pairs: Pairs) -> None:
    """Raise UserError for a metric that no evaluation has, or where there are no evaluations."""
    metric = metric_of(config)
    if metric is None:
        return
    known = [f"{_PREFIX}{name}" for name in metrics.NAMES]
    if metric not in known:
        raise UserError(
            f'train.metric_for_best_model = "{config.metric_for_best_model}" is no metric of the '
            f"evaluations; {did_you_mean(metric, known)} All: {', '.join(known)}"
        )
    if not pairs.count("test"):
        raise UserError(
            f"train.metric_for_best_model = {metric} needs evaluations, and {pairs.folder} holds no pair "
            "out: set pairs.test_share and run `engine precompute` again"
        )


def metric_of(config: Train) -> str | None:
    """The metric's name in metrics.jsonl; as with transformers' Trainer, eval_ may be left out."""
    name = config.metric_for_best_model
    if not name:
        return None
    return name if name.startswith(_PREFIX) else f"{_PREFIX}{name}"


def greater_is_better(config: Train) -> bool:
    """Whether a higher value of the metric is better."""
    if config.greater_is_better == "auto":
        return not config.metric_for_best_model.endswith("loss")
    return config.greater_is_better == "true"


@dataclass
class Best:
    """The best evaluation so far. Every rank has one, and all take the same values."""

    metric: str
    greater: bool
    step: int = 0  # 0: none yet
    value: float = 0.0

    @classmethod
    def of(cls, config: Train, lines: Iterable[Mapping[str, Any]] = ()) -> "Best | None":
        """The best of these lines of metrics.jsonl; None where [train] asks for none."""
        metric = metric_of(config)
        if metric is None:
            return None
        best = cls(metric, greater_is_better(config))
        for line in lines:
            best.take(line["step"], line)
        return best

    def take(self, step: int, values: Mapping[str, Any]) -> bool:
        """True if a step's values are better than all before: of equal ones the first is the best."""
        if step == 0 or self.metric not in values:
            return False
        value = float(values[self.metric])
        is_better = value > self.value if self.greater else value < self.value
        if self.step and not is_better:
            return False
        self.step = step
        self.value = value
        return True


def so_far(folder: Store, config: Train) -> Best | None:
    """The best evaluation of a train folder's record; None where [train] asks for none."""
    if metric_of(config) is None:
        return None
    return Best.of(config, record.read(folder))


def choose(folder: Store, config: Train, last: int) -> int | None:
    """Write best.json for the checkpoints up to step `last`, and return the best one's step; None: none.

    What another metric has left is removed where [train] asks for none."""
    lines: list[dict[str, Any]] = []
    if metric_of(config) is not None:
        there = checkpoint.steps(folder, last)
        lines = [line for line in record.read(folder) if line["step"] in there]
    best = Best.of(config, lines)
    with at(folder.where(BEST)):
        if best is None or not best.step:
            folder.remove(BEST)
            return None
        named = {
            "checkpoint": checkpoint.name_of(best.step),
            "step": best.step,
            "metric": best.metric,
            "value": best.value,
            "greater_is_better": best.greater,
        }
        data = json_bytes(seal(named))
        if not folder.exists(BEST) or folder.read(BEST) != data:
            folder.put(BEST, data)
    return best.step


def choose_whole(folder: Store, config: Train, last: int, source: Path, *, finished: bool) -> int | None:
    """As `choose`, before a run goes on or is found finished: the best checkpoint must be as it was written.

    A damaged one is named; it is removed where the run goes on. A finished run keeps what it has, also where
    [train] asks for none now. `source` as in `checkpoint.save`."""
    if finished and metric_of(config) is None:
        named = read(folder)
        return int(named["step"]) if named else None
    while (step := choose(folder, config, last)) is not None:
        found = checkpoint.damage(folder, step, None, afresh=not finished)
        if found is None:
            return step
        where = folder.where(checkpoint.name_of(step))
        again = "--no-resume trains it again"
        if finished or step == last:
            warn(f"{where}, the best checkpoint, is damaged: {found}; {again}")
            return step
        warn(f"{where}, the best checkpoint, is damaged: {found}; removed, the next best is kept; {again}")
        checkpoint.remove(folder, step, source)
    return None


def read(folder: Store) -> dict[str, Any] | None:
    """What best.json says; None where there is none, or where it is not as it was written."""
    if not folder.exists(BEST):
        return None
    try:
        value = json.loads(folder.read(BEST))
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    named = unsealed(value)
    if named is None or checkpoint.step_of(str(named.get("checkpoint"))) != named.get("step"):
        return None
    return named if folder.exists(str(named["checkpoint"])) else None


def sentence(folder: Store) -> str | None:
    """Which checkpoint is the best one, and where it is; None where none is named."""
    named = read(folder)
    if named is None:
        return None
    return f"best by {named['metric']} ({named['value']:.4f}): {folder.where(named['checkpoint'])}"
