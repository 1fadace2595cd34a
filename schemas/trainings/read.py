"""What `trainer compare` reads of several training runs, and the table that it prints.

picture.py draws the same runs.

- A run is named by its loss and by those settings in which the runs differ.
- Values of different losses cannot be compared. So the curves show what all losses have in common: accuracy,
  and how far the chosen and rejected log-probs have drifted from the reference, in nat, for any β.
- A run that is still at work is shown up to its last line.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from schemas.digest import fingerprint
from schemas.errors import UserError
from schemas.manifest import FACTS, MANIFEST, read_json
from schemas.store import Store, open_store
from trainer import record

_NAME = re.compile("train-([0-9a-f]{12})")
_FACTS_REMEDY = "run the same `trainer run` again, which writes it again, or leave its folder out"

# The curves of a run: columns of its frames `train` and `eval` beside `step`.
CURVES = ("accuracies", "margin", "chosen", "rejected")
# The metrics that the table shows as they were logged.
_TABLE_METRICS = (
    "loss",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


@dataclass(frozen=True)
class Trained:
    """A training run that has made a step."""

    folder: Store
    facts: dict[str, object]  # by dotted names, such as loss.beta
    beta: float  # of its loss; 1 for one without
    last: dict[str, float]  # the last value of every metric
    train: pl.DataFrame  # by batches: columns `step` and CURVES
    eval: pl.DataFrame  # by the held-out pairs, of the same columns
    finished: bool

    @property
    def path(self) -> Path:
        """Where its folder is, or its copy, the same by whatever way it was named."""
        return self.folder.local_path().resolve()


def read(paths: Sequence[Path]) -> list[Trained]:
    """The training runs in these folders: a train folder itself, or all those of a run.

    Raises UserError where there is none, or none that has made a step."""
    runs: dict[Path, Trained] = {}
    for path in paths:
        for folder in _train_folders(open_store(path)):
            trained = _trained(folder)
            if trained is not None:
                runs.setdefault(trained.path, trained)
    if not runs:
        named = ", ".join(map(str, paths))
        raise UserError(f"{named}: no run has made a step yet")
    return list(runs.values())


def _train_folders(folder: Store) -> list[Store]:
    """A train folder itself, or those of a run folder."""
    if folder.exists(FACTS):
        return [folder]
    folders: list[Store] = []
    for name in folder.names("train-*"):
        child = folder.child(name)
        if child.exists(FACTS):
            folders.append(child)
    if not folders:
        raise UserError(
            f"{folder} holds no training run: expected a run folder in which `trainer run` has been, "
            "or one of its train-… folders"
        )
    return folders


def _trained(folder: Store) -> Trained | None:
    """The run in a train folder; None if it has made no step."""
    nested = read_json(folder, FACTS, _FACTS_REMEDY)
    # The folder is named by its facts, so the name is their digest.
    digest = _NAME.fullmatch(folder.local_path().resolve().name)
    if digest and digest[1] != fingerprint(nested):
        raise UserError(f"{folder.where(FACTS)} is not as it was written: {_FACTS_REMEDY}")
    facts = dict(_flattened(nested))
    lines = record.read(folder)
    record.check(folder, record.manifest(folder))
    if not any("loss" in line for line in lines):
        return None
    last: dict[str, float] = {}
    for line in lines:
        last |= line
    beta = float(facts.get("loss.beta", 1.0))
    return Trained(
        folder=folder,
        facts=facts,
        beta=beta,
        last=last,
        train=_curves(lines, "", beta),
        eval=_curves(lines, "eval_", beta),
        finished=folder.exists(MANIFEST),
    )


def _flattened(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested facts as (dotted name, value)."""
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _curves(lines: Sequence[Mapping[str, float]], prefix: str, beta: float) -> pl.DataFrame:
    """The curves in the lines that have a loss with this prefix. A reward divided by β is a drift, in nat."""
    rows: list[dict[str, float]] = []
    for line in lines:
        if f"{prefix}loss" not in line:
            continue
        row = {
            "step": line["step"],
            "accuracies": line[f"{prefix}rewards/accuracies"],
            "margin": line[f"{prefix}rewards/margins"] / beta,
            "chosen": line[f"{prefix}rewards/chosen"] / beta,
            "rejected": line[f"{prefix}rewards/rejected"] / beta,
        }
        rows.append(row)
    types = {"step": pl.Int64, **dict.fromkeys(CURVES, pl.Float64)}
    return pl.DataFrame(rows, schema=types)


def labels(runs: Sequence[Trained]) -> list[str]:
    """A label for each run, without its seed: runs that differ in their seed alone have the same label."""
    settings: dict[str, None] = {}  # a set that keeps its order
    for run in runs:
        settings |= dict.fromkeys(run.facts)
    for key in ("seed", "loss.name"):
        settings.pop(key, None)
    differing = [key for key in settings if _differs(key, runs)]
    return [_label(run, differing) for run in runs]


def _differs(key: str, runs: Sequence[Trained]) -> bool:
    """True if the runs differ in this setting.

    Runs of another loss that does not know the setting do not count. An older run of the same loss, from
    before there was such a setting, does: to lack it is a difference."""
    losses_with_it: set[object] = set()
    for run in runs:
        if key in run.facts:
            losses_with_it.add(run.facts["loss.name"])
    values: set[str] = set()
    for run in runs:
        if run.facts["loss.name"] in losses_with_it:
            value = run.facts.get(key)
            values.add(repr(value))
    return len(values) > 1


def _label(run: Trained, differing: Sequence[str]) -> str:
    """The run's loss, and its values of the settings in which the runs differ."""
    words = [str(run.facts["loss.name"])]
    for key in differing:
        if key in run.facts:
            words.append(f"{_short_name(key)}={_shown(run.facts[key])}")
    return " ".join(words)


def _short_name(key: str) -> str:
    """A setting's dotted name without its section; one of the SFT term stays marked as such."""
    if key.startswith("loss.sft."):
        return key.removeprefix("loss.")
    if key.startswith(("loss.", "train.")):
        return key.rpartition(".")[2]
    return key


def _shown(value: object) -> str:
    """A setting's value as a label has it."""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def folder_name(run: Trained, runs: Sequence[Trained]) -> str:
    """A name of the run's folder that no other run's folder has.

    It is the folder's own name, with the run folder's before it if there are several of those. It is the
    path as it was given if even that is another's."""
    name = run.folder.name
    run_folders = {other.path.parent for other in runs}
    if len(run_folders) > 1:
        name = f"{run.path.parent.name}/{name}"
    same_name = [other for other in runs if other.path.match(name)]
    return name if len(same_name) == 1 else str(run.folder)


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
