"""The picture of `trainer compare`: the curves of several training runs, a panel for each thing they share.

- Runs that differ in their seed alone are one curve: the mean, in a band from the lowest to the highest.
- Dots are the held-out pairs. They are joined, and are the curve, where they were measured more than twice;
  the training batches, smoothed, are then a faint line. Else the training line is the curve.
"""

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from trainer.compare import CURVES, Trained, folder_name, labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLES = {
    "accuracies": "rewards/accuracies: chosen above rejected",
    "margin": "margin h, nat: drift of chosen − drift of rejected",
    "chosen": "drift of the chosen log-prob from the reference, nat",
    "rejected": "drift of the rejected log-prob from the reference, nat",
}
_COLORS = 10  # in matplotlib's own cycle, C0 to C9
_LINE_STYLES = ("-", "--", ":")
_SMOOTH = 20  # a training curve is a mean over the last twentieth of the run
_ROUNDING = 1e-6  # a mean margin below it is what float32 leaves of zero


@dataclass(frozen=True)
class Curve:
    """One line of the picture: a run, or several that differ in their seed alone."""

    name: str
    runs: Sequence[Trained]


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


def picture(runs: Sequence[Trained]) -> bytes:
    """The picture as a PNG, with a panel for each of CURVES. The same runs give the same bytes."""
    import matplotlib.style

    # Not what a matplotlibrc says, which may lie in the folder that one stands in.
    with matplotlib.style.context("default"):
        return _drawn(runs)


def _drawn(runs: Sequence[Trained]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.5), layout="constrained")
    axes = figure.subplots(2, 2).flatten()
    panels = dict(zip(CURVES, axes, strict=True))
    for number, curve in enumerate(curves(runs)):
        color, line = _color_and_line(number)
        for panel, axis in panels.items():
            _draw_curve(
                axis,
                panel,
                curve,
                color=color,
                line=line,
            )
    for panel, axis in panels.items():
        axis.set_title(_TITLES[panel], fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        axis.margins(x=0.01)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(3, len(names)),
        frameon=False,
    )
    out = io.BytesIO()
    figure.savefig(
        out,
        format="png",
        dpi=120,
        metadata={"Software": None},  # it would hold matplotlib's version
    )
    return out.getvalue()


def _color_and_line(number: int) -> tuple[str, str]:
    """The colours in turn, and the next line style when they are used up."""
    line = _LINE_STYLES[number // _COLORS % len(_LINE_STYLES)]
    return f"C{number % _COLORS}", line


def _draw_curve(axis: "Axes", panel: str, curve: Curve, color: str, line: str) -> None:
    """Draw one curve into a panel."""
    runs = list(curve.runs)
    if panel == "accuracies":
        runs = [_after_first_update(run) for run in runs]
    train = _mean_and_range(_smoothed_train(runs, panel), panel)
    held_out = _mean_and_range([run.eval for run in runs], panel)

    train_look: dict[str, Any] = {
        "color": color,
        "linestyle": line,
        "linewidth": 1.2,
    }
    held_out_look: dict[str, Any] = {
        "color": color,
        "marker": "o",
        "markersize": 3,
        "linewidth": 1.8,
    }
    # Two points, the start and the end, are no curve: a line between them would show what was not measured.
    if len(held_out) > 2:
        train_look |= {"alpha": 0.35}
        held_out_look |= {"linestyle": line, "label": curve.name}
        band = held_out
    else:
        train_look |= {"alpha": 1.0, "label": curve.name}
        held_out_look |= {"linestyle": ""}
        band = train
    axis.plot(train["step"], train["mean"], **train_look)
    if len(held_out):
        axis.plot(held_out["step"], held_out["mean"], **held_out_look)
    if len(runs) > 1:
        axis.fill_between(
            band["step"],
            band["low"],
            band["high"],
            color=color,
            alpha=0.15,
            linewidth=0,
        )


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


def _smoothed_train(runs: Sequence[Trained], panel: str) -> list[pl.DataFrame]:
    """The runs' training curves, each value a mean over the last steps before it."""
    longest = max(len(run.train) for run in runs)
    window = max(1, longest // _SMOOTH)
    mean = pl.col(panel).rolling_mean(window, min_samples=1)
    frames: list[pl.DataFrame] = []
    for run in runs:
        frames.append(run.train.select("step", mean))
    return frames


def _mean_and_range(frames: Sequence[pl.DataFrame], panel: str) -> pl.DataFrame:
    """The mean, lowest and highest value of several curves at the steps that all of them have."""
    value = pl.col(panel)
    by_step = pl.concat(frames).group_by("step")
    values = by_step.agg(
        value.mean().alias("mean"),
        value.min().alias("low"),
        value.max().alias("high"),
        pl.len().alias("n"),
    )
    of_all = values.filter(pl.col("n") == len(frames))
    return of_all.sort("step")
