"""Intervals by bootstrap over seeds and problems, for paired comparisons.

- What is measured is a table of seeds × problems. Seeds are other data, other samples, other training orders;
  problems are the same for all.
- A bootstrap draws seeds and problems with replacement, each on its own (a two-way bootstrap: Owen 2007,
  "The pigeonhole bootstrap").
- Of n seeds n − 1 are drawn: with n, a bootstrap of a handful would say intervals that are too narrow, by
  √((n−1)/n) (Rao and Wu 1988).
- More seeds make an interval narrower, but not without end: the problems stay the same. What these alone
  would leave, with any number of seeds, is `Interval.of_problems`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DRAWS = 4000
LEVEL = 0.95
_Z = 1.96  # of a normal distribution, at that level
_VARIANCE_DRAWS = 1000  # for a variance over problems
Values = np.ndarray


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, from so many seeds.

    `of_problems`: half of the width that it would have with any number of seeds."""

    mean: float
    low: float
    high: float
    seeds: int
    of_problems: float = 0.0

    @property
    def half(self) -> float:
        """Half of its width."""
        return (self.high - self.low) / 2

    def seeds_to_decide(self) -> int | None:
        """How many seeds it would take for the interval to leave out 0, if the mean stayed what it is.

        With n seeds the half width is √(p² + s² / n), where p is `of_problems`. None: more than a thousand,
        or no number of seeds, since p alone is more than the mean."""
        of_one_seed = self.seeds * max(0.0, self.half**2 - self.of_problems**2)
        room = self.mean**2 - self.of_problems**2
        if room <= 0 or of_one_seed / room > 1000:
            return None
        return max(math.ceil(of_one_seed / room), self.seeds + 1)


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
    stays = _Z * _variance_of_problems(statistic, values, draw) ** 0.5
    return Interval(float(statistic(values)), float(low), float(high), seeds, stays)


def _variance_of_problems(
    statistic: Callable[[Values], float], values: Values, draw: np.random.Generator
) -> float:
    """The variance of a statistic that comes from the choice of the problems, with any number of seeds.

    Let problems alone be drawn. With n seeds the variance is p + i / n, where i comes from what a problem is
    in one seed and not in another. It is measured with all seeds and with one, and solved for p."""
    seeds = len(values)
    if seeds < 2 or values.shape[1] < 2:
        return 0.0
    with_all = _variance_over_problems(statistic, values, draw)
    with_one = np.mean([_variance_over_problems(statistic, values[[seed]], draw) for seed in range(seeds)])
    return max(0.0, float(seeds * with_all - with_one) / (seeds - 1))


def _variance_over_problems(
    statistic: Callable[[Values], float], values: Values, draw: np.random.Generator
) -> float:
    """The variance of a statistic if problems are drawn anew, and seeds are what they are."""
    problems = values.shape[1]
    drawn: list[float] = []
    for _ in range(_VARIANCE_DRAWS):
        drawn.append(statistic(values[:, draw.integers(problems, size=problems)]))
    return float(np.nanvar(drawn))


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
