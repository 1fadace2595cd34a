"""Training runs as a table: where each of them ended.

Values of different losses cannot be compared. So it also says what all losses have in common: how far the
chosen and rejected log-probs have drifted from the reference, in nat, for any β.
"""

from collections.abc import Sequence

import polars as pl

from schemas.trainings.labels import folder_name, labels
from schemas.trainings.read import Trained

# The metrics that the table shows as they were logged.
_TABLE_METRICS = (
    "loss",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


def table(runs: Sequence[Trained]) -> pl.DataFrame:
    """A row for each run: its metrics now, and the drift of its log-probs since the start, in nat.

    They are those of the held-out pairs, or of the last batch if no evaluation was made at the last step.
    The column `of` says which."""
    rows: list[dict[str, object]] = []
    for run, label in zip(runs, labels(runs), strict=True):
        rows.append(_row(run, label, folder_name(run, runs)))
    return pl.DataFrame(rows).sort("run", "seed")


def _row(run: Trained, label: str, folder: str) -> dict[str, object]:
    """The run's row of `table`."""
    last_step = run.train["step"][-1]
    of = "last batch"
    prefix = ""
    if len(run.eval) and run.eval["step"][-1] == last_step:
        of = "held out"
        prefix = "eval_"
    steps = str(last_step)
    if not run.finished:
        steps += " (unfinished)"
    row: dict[str, object] = {
        "run": label,
        "seed": run.facts["seed"],
        "steps": steps,
        "of": of,
    }
    for name in _TABLE_METRICS:
        row[name] = run.last[prefix + name]
    for side in ("chosen", "rejected"):
        row[f"drift/{side}"] = run.last[f"{prefix}rewards/{side}"] / run.beta
    row["folder"] = folder
    return row


def shown(rows: pl.DataFrame) -> pl.DataFrame:
    """The columns of `table` that a terminal has room for.

    Left out are those that follow from the others, and those that say nothing: one seed for all, or
    that all are by the held-out pairs."""
    hidden = ["logps/rejected", "rewards/margins"]
    if rows["seed"].n_unique() == 1:
        hidden.append("seed")
    if (rows["of"] == "held out").all():
        hidden.append("of")
    return rows.drop(hidden)
