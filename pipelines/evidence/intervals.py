"""Intervals by bootstrap over seeds and problems, for paired comparisons.

- What is measured is a table of seeds × problems. Seeds are other data, other samples, other training orders;
  problems are the same for all.
- A bootstrap draws seeds and problems with replacement, each on its own (a two-way bootstrap: Owen 2007,
  "The pigeonhole bootstrap").
- Of n seeds n − 1 are drawn: with n, a bootstrap of a handful would say intervals that are too narrow, by
  √((n−1)/n) (Rao and Wu 1988).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DRAWS = 4000
LEVEL = 0.95
Values = np.ndarray


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, from so many seeds."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def half(self) -> float:
        """Half of its width."""
        return (self.high - self.low) / 2

    def seeds_to_decide(self) -> int | None:
        """How many seeds it would take for the interval to leave out 0, if the mean stayed what it is.

        The width falls with the root of the seeds. None: more than a thousand."""
        if self.mean == 0:
            return None
        needed = int(np.ceil(self.seeds * (self.half / self.mean) ** 2))
        needed = max(needed, self.seeds + 1)
        return needed if needed <= 1000 else None


def of_mean(values: Values, seed: int = 0) -> Interval:
    """The mean of (seeds, problems) or (seeds,) values; NaN where a problem was not measured."""
    values = np.asarray(values, dtype=float)
    table = values[:, None] if values.ndim == 1 else values
    return bootstrapped(lambda drawn: np.nanmean(drawn[..., 0]), table[..., None], seed)


def bootstrapped(statistic: Callable[[Values], float], values: Values, seed: int = 0) -> Interval:
    """A statistic of (seeds, problems, columns) values, with its interval.

    `statistic` is given such values, with rows drawn anew."""
    seeds, problems = values.shape[:2]
    draw = np.random.default_rng(seed)
    drawn: list[float] = []
    for _ in range(DRAWS):
        of_seeds = draw.integers(seeds, size=max(1, seeds - 1))
        of_problems = draw.integers(problems, size=problems) if problems > 1 else np.zeros(1, int)
        drawn.append(statistic(values[np.ix_(of_seeds, of_problems)]))
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(statistic(values)), float(low), float(high), seeds)


def correlation(values: Values) -> float:
    """The mean over seeds of the correlation over problems of the two columns."""
    found: list[float] = []
    for of_seed in values:
        known = ~np.isnan(of_seed).any(-1)
        found.append(float(np.corrcoef(of_seed[known].T)[0, 1]))
    return float(np.mean(found))


def gain_in_correlation(values: Values) -> float:
    """How much higher the correlation of columns 0 and 2 is than that of columns 1 and 2."""
    return correlation(values[..., [0, 2]]) - correlation(values[..., [1, 2]])
