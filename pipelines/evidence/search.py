"""Learning rate and β of each method: the same search for all, on problems and a cache of its own.

Every method is trained with each learning rate at one β, then with each other β at the best of these
learning rates, on the variant of the pairs that it is for, and is measured on the search problems. The best
mean reward over the search's seeds is taken. No test problem and no seed of the comparisons has a part in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import polars as pl

from pipelines.evidence import work
from pipelines.evidence.arms import BETAS, FIRST_BETA, LEARNING_RATES, Arm, Method, Tuned
from pipelines.evidence.setting import SEARCH_SEEDS, Setting

_COLUMNS = {
    "method": pl.String,
    "variant": pl.String,
    "learning_rate": pl.Float64,
    "beta": pl.Float64,
    "reward": pl.Float64,
    "kl": pl.Float64,
    "seconds": pl.Float64,
}


class _Found(NamedTuple):
    """What a cell of the search came to: mean true reward, KL in nat, seconds of all its trainings."""

    reward: float
    kl: float
    seconds: float


@dataclass(frozen=True)
class Search:
    """What the search chose, by (name of the method, variant), and a row for each cell of it."""

    tuned: dict[tuple[str, str], Tuned]
    table: pl.DataFrame

    def of(self, method: Method) -> Tuned:
        """What it chose for a method on the method's own variant."""
        return self.tuned[method.name, method.variant]


def search(out: Path, methods: Sequence[Method], setting: Setting) -> Search:
    """Train each method with every learning rate at one β, then with every other β at the best of them."""
    distinct = list(dict.fromkeys(methods))
    rates: list[Arm] = []
    for method in distinct:
        rates += method.cells(LEARNING_RATES, [FIRST_BETA])
    tried = _tried(rates, out, setting)
    other_betas = [beta for beta in BETAS if beta != FIRST_BETA]
    betas: list[Arm] = []
    for method in distinct:
        if method.has_beta:
            betas += method.cells([_best(method, tried).learning_rate], other_betas)
    tried |= _tried(betas, out, setting)
    tuned: dict[tuple[str, str], Tuned] = {}
    for method in distinct:
        best = _best(method, tried)
        tuned[method.name, method.variant] = Tuned(method, best.learning_rate, best.beta)
    return Search(tuned, pl.DataFrame([_row(arm, found) for arm, found in tried.items()], _COLUMNS))


def _tried(arms: Sequence[Arm], out: Path, setting: Setting) -> dict[Arm, _Found]:
    """What training each of these arms with every seed of the search came to."""
    keys = [(arm, seed) for arm in arms for seed in SEARCH_SEEDS]
    jobs: list[work.Job] = [(out, seed, arm, setting) for arm, seed in keys]
    made = work.all_of("search", work.train_and_measure, jobs, out, setting.workers)
    by_arm: dict[Arm, list[_Found]] = {arm: [] for arm in arms}
    for (arm, _), one in zip(keys, made, strict=True):
        samples = pl.read_parquet(one.samples[max(one.samples)])
        kl = samples["logps"] - samples["ref_logps"]
        by_arm[arm].append(_Found(_mean(samples["reward"]), _mean(kl), sum(one.seconds)))
    return {arm: _over_seeds(found) for arm, found in by_arm.items()}


def _mean(values: pl.Series) -> float:
    return float(values.to_numpy().mean())


def _over_seeds(found: Sequence[_Found]) -> _Found:
    """The means of reward and KL, and the sum of the seconds."""
    seconds = sum(one.seconds for one in found)
    return _Found(fmean(one.reward for one in found), fmean(one.kl for one in found), seconds)


def _best(method: Method, tried: dict[Arm, _Found]) -> Arm:
    """The arm of a method that earned the most."""
    own = [arm for arm in tried if arm.method == method]
    return max(own, key=lambda arm: tried[arm].reward)


def _row(arm: Arm, found: _Found) -> dict[str, object]:
    """A row of the table `searched`."""
    return {
        "method": arm.method.name,
        "variant": arm.variant,
        "learning_rate": arm.learning_rate,
        "beta": arm.beta if arm.method.has_beta else None,
        "reward": found.reward,
        "kl": found.kl,
        "seconds": found.seconds,
    }
