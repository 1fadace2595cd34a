"""What every claim says of itself, and what they build their tables and verdicts with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.evidence.arms import Arm, Method
from pipelines.evidence.intervals import Interval, of_mean
from pipelines.evidence.results import Results
from pipelines.evidence.search import Search
from pipelines.evidence.verdicts import Verdict
from schemas.charts import Chart


@dataclass(frozen=True)
class Tried:
    """What was made for a claim. `many`: seed -> a Parquet file of many samples of the reference."""

    results: Results
    search: Search
    out: Path
    many: dict[int, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """What a claim came to: verdicts, the main ones first; tables by title; charts by name; remarks."""

    verdicts: Sequence[Verdict]
    tables: dict[str, pl.DataFrame]
    charts: dict[str, Chart]
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Claim:
    """A claim of a paper. `says`: what the paper claims; `setting`: how it is tried here.

    `methods`: searched before; `arms`: what is trained with each seed; `many_samples`: of the reference, 0
    where none are wanted; `margins`: whether those of the reference's samples are measured."""

    name: str
    title: str
    paper: str
    says: str
    setting: str
    methods: Sequence[Method]
    arms: Callable[[Search], list[Arm]]
    judge: Callable[[Tried], Judged]
    many_samples: int = 0
    margins: bool = False


def compared(results: Results, one: str, other: str, column: str = "reward") -> Interval:
    """How much more an arm has than another, paired by seed and problem."""
    return of_mean(results.of(one, column) - results.of(other, column))


def better(claim: str, tried: Tried, one: str, other: str, question: str = "") -> Verdict:
    """Whether an arm's true reward is higher than another's."""
    results = tried.results
    return Verdict(
        claim=claim,
        question=question or f"{one} earns more true reward than {other}",
        value=compared(results, one, other),
        unit="reward",
        figures=f"{results.mean(one):.3f} against {results.mean(other):.3f}",
    )


def summary(tried: Tried, arms: Sequence[Arm]) -> pl.DataFrame:
    """A row for each arm and the reference: true reward, its parts, KL, held-out accuracy, drift, time."""
    results = tried.results
    rows: list[dict[str, object]] = []
    for arm in arms:
        row: dict[str, object] = {"arm": arm.name, "pairs": arm.variant}
        row |= {
            "learning rate": f"{arm.learning_rate:g}",
            "β": f"{arm.beta:g}" if arm.method.has_beta else "–",
        }
        row |= _measures(results, arm.name)
        row |= {
            "accuracy": _rounded(results.held_out(arm.name, "eval_rewards/accuracies"), 3),
            "drift of chosen": _rounded(results.held_out(arm.name, "drift/chosen"), 1),
            "seconds": _rounded(results.held_out(arm.name, "seconds"), 0),
        }
        rows.append(row)
    rows.append(
        {"arm": "reference", "pairs": "–", "learning rate": "–", "β": "–"} | _measures(results, "reference")
    )
    return pl.DataFrame(rows, infer_schema_length=None)


def _measures(results: Results, arm: str) -> dict[str, object]:
    row: dict[str, object] = {}
    interval = of_mean(results.of(arm))
    row["reward"] = f"{interval.mean:.3f} ± {interval.half:.3f}"
    row["right"] = f"{results.mean(arm, 'right'):.1%}"
    row["style"] = f"{results.mean(arm, 'style'):.2f}"
    row["KL"] = f"{results.mean(arm, 'kl'):.2f}"
    return row


def _rounded(values: np.ndarray, digits: int) -> str:
    return f"{float(np.mean(values)):.{digits}f}"


def dots(title: str, rows: Sequence[dict[str, object]], axis: str = "true reward") -> Chart:
    """Arms below each other, with their intervals: rows of arm, mean, low, high and group."""
    order = [row["arm"] for row in rows]
    y = {"field": "arm", "type": "nominal", "sort": order, "title": None, "axis": {"labelLimit": 300}}
    x = {"type": "quantitative", "scale": {"zero": False}, "title": axis, "axis": {"tickCount": 8}}
    color = {"field": "group", "type": "nominal", "title": None, "legend": {"orient": "top"}}
    return {
        "title": title,
        "width": 420,
        "height": 22 * len(rows),
        "data": {"values": list(rows)},
        "encoding": {"y": y, "color": color},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60},
                "encoding": {"x": {"field": "mean", **x}},
            },
        ],
    }


def dot(results: Results, arm: str, group: str) -> dict[str, object]:
    """A row of `dots`: an arm's true reward."""
    value = of_mean(results.of(arm))
    return {"arm": arm, "mean": value.mean, "low": value.low, "high": value.high, "group": group}
