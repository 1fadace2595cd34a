"""`trainer compare`: several training runs side by side, as a table and as one picture of their curves.

A run is named by what tells it from the others: its loss, and those of its settings in which they differ. Runs that differ in their seed alone are one
curve, the mean, in a band from the lowest to the highest. Losses of different kinds cannot be compared, so what is drawn is what they have in common:
accuracy, and how far chosen and rejected log-probs have drifted from the reference, in nat, whatever β makes of it.
"""

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from schemas.errors import UserError
from schemas.manifest import read_json

PANELS = {
    "accuracies": "rewards/accuracies: chosen above rejected",
    "margin": "margin h, nat: drift of chosen − drift of rejected",
    "chosen": "drift of the chosen log-prob from the reference, nat",
    "rejected": "drift of the rejected log-prob from the reference, nat",
}
_SMOOTH = 20  # a training curve is a mean over the last twentieth of the run
_ROUNDING = 1e-6  # a mean margin below it is what float32 leaves of zero


@dataclass(frozen=True)
class Trained:
    """A training run: its folder, its facts by dotted names, and its curves: `train` and `eval` with a column `step` and one for each of PANELS."""

    folder: Path
    facts: dict[str, object]
    last: dict[str, float]  # the last value of every metric
    train: pl.DataFrame
    eval: pl.DataFrame
    finished: bool

    @property
    def beta(self) -> float:
        beta = self.facts.get("loss.beta", 1.0)
        assert isinstance(beta, float | int)
        return float(beta)


def read(paths: Sequence[Path]) -> list[Trained]:
    """The training runs in these folders: a train folder itself, or all of a run's; raises UserError where there is none."""
    found: dict[Path, Trained] = {}
    for path in paths:
        folders = (
            [path]
            if (path / "facts.json").exists()
            else sorted(facts.parent for facts in path.glob("train-*/facts.json"))
        )
        if not folders:
            raise UserError(
                f"{path} holds no training run: expected a run folder in which `trainer run` has been, or one of its train-… folders"
            )
        for folder in folders:
            if folder.resolve() not in found and (trained := _trained(folder)):
                found[folder.resolve()] = trained
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: no run has made a step yet")
    return list(found.values())


def _trained(folder: Path) -> Trained | None:
    """None where no step was made."""
    facts = dict(_flat(read_json(folder / "facts.json", f"leave {folder} out, or train it again")))
    lines = []
    for line in (
        (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").exists() else []
    ):
        with contextlib.suppress(ValueError):  # one that is being written
            lines.append(json.loads(line))
    if not any("loss" in line for line in lines):
        return None
    beta = float(facts.get("loss.beta", 1.0))
    last = {name: value for line in lines for name, value in line.items()}
    return Trained(
        folder,
        facts,
        last,
        _curves(lines, "", beta),
        _curves(lines, "eval_", beta),
        (folder / "manifest.json").exists(),
    )


def _flat(value: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, inner in value.items():
        yield from _flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else [(prefix + key, inner)]


def _curves(lines: list[dict], prefix: str, beta: float) -> pl.DataFrame:
    rows = [
        {
            "step": line["step"],
            "accuracies": line[f"{prefix}rewards/accuracies"],
            "margin": line[f"{prefix}rewards/margins"] / beta,
            "chosen": line[f"{prefix}rewards/chosen"] / beta,
            "rejected": line[f"{prefix}rewards/rejected"] / beta,
        }
        for line in lines
        if f"{prefix}loss" in line
    ]
    return pl.DataFrame(rows, schema={"step": pl.Int64, **dict.fromkeys(PANELS, pl.Float64)})


def labels(runs: Sequence[Trained]) -> list[str]:
    """What tells each run from the others, its seed aside."""
    keys = dict.fromkeys(key for run in runs for key in run.facts if key not in ("seed", "loss.name"))
    differ = [key for key in keys if _differs(key, runs)]
    names = {
        key: key.rpartition(".")[2]
        if key.startswith(("loss.", "train.")) and not key.startswith("loss.sft.")
        else key.removeprefix("loss.")
        for key in differ
    }
    return [
        " ".join(
            [
                str(run.facts["loss.name"]),
                *(f"{names[key]}={_shown(run.facts[key])}" for key in differ if key in run.facts),
            ]
        )
        for run in runs
    ]


def _differs(key: str, runs: Sequence[Trained]) -> bool:
    """Whether the runs that have a setting have it alike; one that an older run of the same loss does not have is a difference too."""
    losses = {run.facts["loss.name"] for run in runs if key in run.facts}
    return (
        len(
            {repr(run.facts.get(key)) for run in runs if key in run.facts or run.facts["loss.name"] in losses}
        )
        > 1
    )


def curves(runs: Sequence[Trained]) -> dict[str, list[Trained]]:
    """Runs by the name of the curve that they are drawn as: those that differ in their seed alone together, any others of one name apart, by folder."""
    groups: dict[str, list[Trained]] = {}
    for label, run in sorted(zip(labels(runs), runs, strict=True), key=lambda item: item[0]):
        groups.setdefault(label, []).append(run)
    found = {}
    for label, members in groups.items():
        if len({run.facts["seed"] for run in members}) == len(members):
            found[label if len(members) == 1 else f"{label} ({len(members)} seeds)"] = members
        else:
            found |= {f"{label} {_folder(run, runs)}": [run] for run in members}
    return found


def _folder(run: Trained, runs: Sequence[Trained]) -> str:
    """Its folder's name, with the run folder's where there are several of them; its whole path where even that is another's."""
    several = len({other.folder.resolve().parent for other in runs}) > 1
    name = f"{run.folder.resolve().parent.name}/{run.folder.name}" if several else run.folder.name
    return name if sum(other.folder.resolve().match(name) for other in runs) == 1 else str(run.folder)


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(runs: Sequence[Trained]) -> pl.DataFrame:
    """A row a run: where it is now by the held-out pairs (by its last batch, and said so, where they were not measured at that step), and the drift of
    its log-probs, nat."""
    rows = []
    for run, label in zip(runs, labels(runs), strict=True):
        held = bool(len(run.eval)) and run.eval["step"][-1] == run.train["step"][-1]
        prefix = "eval_" if held else ""
        drift = {
            f"drift/{side}": run.last[f"{prefix}rewards/{side}"] / run.beta for side in ("chosen", "rejected")
        }
        metrics = {
            name: run.last[prefix + name]
            for name in ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected")
        }
        step = run.train["step"][-1]
        rows.append(
            {
                "run": label,
                "seed": run.facts["seed"],
                "steps": f"{step}" + ("" if run.finished else " (unfinished)"),
                "of": "held out" if held else "last batch",
                **metrics,
                **drift,
                "folder": _folder(run, runs),
            }
        )
    return pl.DataFrame(rows).sort("run", "seed")


def shown(rows: pl.DataFrame) -> pl.DataFrame:
    """The columns of `table` that a terminal has room for: not what is the same for all, nor what follows from the others."""
    same = [name for name in ("seed", "of") if rows[name].n_unique() == 1]
    return rows.drop(
        "logps/rejected",
        "rewards/margins",
        *(name for name in same if name == "seed" or rows["of"][0] == "held out"),
    )


def picture(runs: Sequence[Trained]) -> bytes:
    """PNG: a panel for each of PANELS; dots are the held-out pairs, joined where they were measured often; the other line is training, smoothed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.5), layout="constrained")
    axes = figure.subplots(2, 2).flatten()
    for number, (name, members) in enumerate(curves(runs).items()):
        for axis, panel in zip(axes, PANELS, strict=True):
            _draw(axis, panel, members, f"C{number % 10}", ("-", "--", ":")[number // 10 % 3], name)
    for axis, title in zip(axes, PANELS.values(), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        axis.margins(x=0.01)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)), frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120, metadata={"Software": None})
    return out.getvalue()


def _draw(axis, panel: str, members: Sequence[Trained], color: str, style: str, name: str) -> None:
    if panel == "accuracies":  # until an update has moved the policy all are ties, up to rounding
        moved = pl.col("margin").abs() > _ROUNDING
        members = [
            replace(run, train=run.train.filter(moved), eval=run.eval.filter(moved)) for run in members
        ]
    window = max(1, max(len(run.train) for run in members) // _SMOOTH)
    smooth = [run.train.select("step", pl.col(panel).rolling_mean(window, min_samples=1)) for run in members]
    train, held = _over(smooth, panel), _over([run.eval.select("step", panel) for run in members], panel)
    # Two points, the start and the end, are no curve: a line between them would say what nobody measured.
    often = len(held) > 2
    axis.plot(
        train["step"],
        train["mean"],
        color=color,
        linestyle=style,
        alpha=0.35 if often else 1.0,
        linewidth=1.2,
        label=None if often else name,
    )
    if len(held):
        axis.plot(
            held["step"],
            held["mean"],
            color=color,
            linestyle=style if often else "",
            marker="o",
            markersize=3,
            linewidth=1.8,
            label=name if often else None,
        )
    band = held if often else train
    if len(members) > 1:
        axis.fill_between(band["step"], band["low"], band["high"], color=color, alpha=0.15, linewidth=0)


def _over(curves: Sequence[pl.DataFrame], panel: str) -> pl.DataFrame:
    """The mean and the range of several curves at the steps that all of them have."""
    value = pl.col(panel)
    grouped = (
        pl.concat(curves)
        .group_by("step")
        .agg(
            value.mean().alias("mean"),
            value.min().alias("low"),
            value.max().alias("high"),
            pl.len().alias("n"),
        )
    )
    return grouped.filter(pl.col("n") == len(curves)).sort("step")
