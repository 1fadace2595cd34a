"""Learning rate and β of each method: the same search for all, on problems and a cache of its own.

Every method is trained with each learning rate and each β of one grid, on the variant of the pairs that it is
for, and is measured on the search problems. The best mean reward is taken. No test problem and no seed of the
comparisons has a part in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipelines.evidence import work
from pipelines.evidence.arms import Arm, Method, Tuned
from pipelines.evidence.setting import SEARCH_SEED, Setting

_COLUMNS = {
    "method": pl.String,
    "variant": pl.String,
    "learning_rate": pl.Float64,
    "beta": pl.Float64,
    "reward": pl.Float64,
    "kl": pl.Float64,
    "seconds": pl.Float64,
}


@dataclass(frozen=True)
class Search:
    """What the search chose, by (name of the method, variant), and a row for each training of it."""

    tuned: dict[tuple[str, str], Tuned]
    table: pl.DataFrame

    def of(self, method: Method) -> Tuned:
        """What it chose for a method on the method's own variant."""
        return self.tuned[method.name, method.variant]


def search(out: Path, methods: Sequence[Method], setting: Setting) -> Search:
    """Train each method on the grid, and choose."""
    distinct = list(dict.fromkeys(methods))
    jobs: list[work.Job] = []
    cells: list[Arm] = []
    for method in distinct:
        for rate, beta in method.grid():
            arm = Arm(method.name, method, rate, beta, method.variant)
            cells.append(arm)
            jobs.append((out, SEARCH_SEED, arm, setting))
    made = work.all_of("search", work.train_and_measure, jobs, out, setting.workers)
    rows: list[dict[str, object]] = []
    for arm, one in zip(cells, made, strict=True):
        samples = pl.read_parquet(one.samples[max(one.samples)])
        rows.append(
            {
                "method": arm.method.name,
                "variant": arm.variant,
                "learning_rate": arm.learning_rate,
                "beta": arm.beta if arm.method.has_beta else None,
                "reward": samples["reward"].mean(),
                "kl": (samples["logps"] - samples["ref_logps"]).mean(),
                "seconds": sum(one.seconds),
            }
        )
    tuned: dict[tuple[str, str], Tuned] = {}
    for method in distinct:
        own = [number for number, arm in enumerate(cells) if arm.method == method]
        best = max(own, key=lambda number: float(str(rows[number]["reward"])))
        tuned[method.name, method.variant] = Tuned(method, cells[best].learning_rate, cells[best].beta)
    return Search(tuned, pl.DataFrame(rows, _COLUMNS))
