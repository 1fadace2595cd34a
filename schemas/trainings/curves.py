"""The curves that training runs are drawn as: smoothed, and put together by seeds.

- Runs that differ in their seed alone are one curve: the mean, in a band from the lowest to the highest.
- Training batches are noisy: the curve is a mean over the last tenth of the run, and what was logged is kept
  beside it, to be drawn faintly.
- The held-out pairs are points: they are measured now and then, without noise of batches.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from schemas.trainings.labels import folder_name, labels
from schemas.trainings.read import Trained

_SMOOTH = 10  # a curve is a mean over the last tenth of the run
_ROUNDING = 1e-6  # a mean margin below it is what float32 leaves of zero
_MOST_POINTS = 300  # of a line: more are not told apart on a screen


@dataclass(frozen=True)
class Curve:
    """One curve in each panel: a run, or several that differ in their seed alone."""

    name: str
    runs: Sequence[Trained]


@dataclass(frozen=True)
class Drawn:
    """What a curve is in one panel. Frames with columns step and value, or step, mean, low and high."""

    logged: Sequence[pl.DataFrame]  # a frame for each run
    smooth: pl.DataFrame
    held_out: pl.DataFrame

    @property
    def is_empty(self) -> bool:
        return not len(self.smooth) and not len(self.held_out)


def curves(runs: Sequence[Trained]) -> list[Curve]:
    """The curves that the runs are drawn as, by label.

    Runs of one label with different seeds are one curve. Runs of one label and one seed (from two run
    folders, say) are apart, named by their folders."""
    by_label: dict[str, list[Trained]] = {}
    for label, run in zip(labels(runs), runs, strict=True):
        by_label.setdefault(label, []).append(run)
    drawn: list[Curve] = []
    for label, members in sorted(by_label.items()):
        seeds = {run.facts["seed"] for run in members}
        if len(members) == 1:
            drawn.append(Curve(label, members))
        elif len(seeds) == len(members):
            drawn.append(Curve(f"{label} ({len(members)} seeds)", members))
        else:
            for run in members:
                drawn.append(Curve(f"{label} {folder_name(run, runs)}", [run]))
    return drawn


def drawn(curve: Curve, panel: str) -> Drawn:
    """A curve in the panel of one of `schemas.trainings.read.CURVES`."""
    runs = list(curve.runs)
    if panel == "accuracies":
        runs = [_after_first_update(run) for run in runs]
    logged = [_values(run.train, panel) for run in runs]
    held_out = [_values(run.eval, panel) for run in runs]
    return Drawn(
        logged=[_thinned(frame) for frame in logged],
        smooth=_thinned(mean_and_range(_smoothed(logged))),
        held_out=_thinned(mean_and_range(held_out)),
    )


def _values(frame: pl.DataFrame, panel: str) -> pl.DataFrame:
    """The steps at which a panel's value was measured."""
    return frame.select("step", pl.col(panel).alias("value")).drop_nulls()


def _after_first_update(run: Trained) -> Trained:
    """The run from the first update of the policy on.

    Before it the policy is the reference and all pairs are ties, so the accuracy is that of rounding
    errors."""
    moved = pl.col("margin").abs() > _ROUNDING
    return dataclasses.replace(
        run,
        train=run.train.filter(moved),
        eval=run.eval.filter(moved),
    )


def _smoothed(logged: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
    """The runs' values, each a mean over the last steps before it."""
    longest = max(len(frame) for frame in logged)
    window = max(1, longest // _SMOOTH)
    mean = pl.col("value").rolling_mean(window, min_samples=1)
    return [frame.select("step", mean) for frame in logged]


def mean_and_range(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The mean, lowest and highest value of several runs at the steps that all of them have."""
    value = pl.col("value")
    by_step = pl.concat(frames).group_by("step")
    values = by_step.agg(
        value.mean().alias("mean"),
        value.min().alias("low"),
        value.max().alias("high"),
        pl.len().alias("n"),
    )
    of_all = values.filter(pl.col("n") == len(frames))
    return of_all.sort("step").drop("n")


def _thinned(frame: pl.DataFrame) -> pl.DataFrame:
    """So few of a line's points that it can be drawn: every n-th, and the last."""
    every = math.ceil(len(frame) / _MOST_POINTS)
    if every <= 1:
        return frame
    place = pl.int_range(pl.len())
    return frame.filter((place % every == 0) | (place == pl.len() - 1))
