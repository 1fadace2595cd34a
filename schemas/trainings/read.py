"""Training runs, read from their folders.

A run that is still at work is read up to its last line.
"""

import dataclasses
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
from schemas.trainings import clock, record

_NAME = re.compile("train-([0-9a-f]{12})")
_FACTS_REMEDY = "run the same `trainer run` again, which writes it again, or leave its folder out"

# Column -> the metric it is taken from. A reward divided by β is a drift from the reference, in nat, which is
# the same for every loss and β.
_LOGGED = {
    "accuracies": "rewards/accuracies",
    "margin": "rewards/margins",
    "chosen": "rewards/chosen",
    "rejected": "rewards/rejected",
    "loss": "loss",
    "logps_chosen": "logps/chosen",
    "logps_rejected": "logps/rejected",
    "grad_norm": "grad_norm",
}
_OVER_BETA = ("margin", "chosen", "rejected")
# The curves of a run: columns of its frames `train` and `eval` beside `step`.
CURVES = (*_LOGGED, clock.TOKENS_PER_SECOND, clock.MEMORY)


@dataclass(frozen=True)
class Trained:
    """A training run that has made a step."""

    folder: Store
    facts: dict[str, object]  # by dotted names, such as loss.beta
    beta: float  # of its loss; 1 for one without
    last: dict[str, float]  # the last value of every metric
    train: pl.DataFrame  # by batches: columns `step` and CURVES; null where it was not measured
    eval: pl.DataFrame  # by the held-out pairs, of the same columns
    finished: bool

    @property
    def path(self) -> Path:
        """Where its folder is, or its copy, the same by whatever way it was named."""
        return self.folder.local_path().resolve()

    def without_clock(self) -> "Trained":
        """The run without what depends on the clock: the same run is the same, then."""
        none = pl.lit(None, pl.Float64)
        train = self.train.with_columns(none.alias(clock.TOKENS_PER_SECOND), none.alias(clock.MEMORY))
        return dataclasses.replace(self, train=train)


def read(paths: Sequence[Path | str]) -> list[Trained]:
    """The training runs in these folders: a train folder itself, or all those of a run.

    Raises UserError where there is none, or none that has made a step."""
    runs: dict[Path, Trained] = {}
    for path in paths:
        for folder in _train_folders(open_store(path)):
            trained = trained_in(folder)
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
    folders = train_folders(folder)
    if not folders:
        raise UserError(
            f"{folder} holds no training run: expected a run folder in which `trainer run` has been, "
            "or one of its train-… folders"
        )
    return folders


def train_folders(run: Store) -> list[Store]:
    """The train folders of a run folder; there may be none."""
    folders: list[Store] = []
    for name in run.names("train-*"):
        child = run.child(name)
        if child.exists(FACTS):
            folders.append(child)
    return folders


def trained_in(folder: Store) -> Trained | None:
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
    clocked = clock.read(folder)
    return Trained(
        folder=folder,
        facts=facts,
        beta=beta,
        last=last,
        train=_curves(lines, "", beta).join(clocked, on="step", how="left", maintain_order="left"),
        eval=_curves(lines, "eval_", beta).join(clocked.clear(), on="step", how="left"),
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
    """The curves in the lines that have a loss with this prefix."""
    rows: list[dict[str, float | None]] = []
    for line in lines:
        if f"{prefix}loss" not in line:
            continue
        row: dict[str, float | None] = {"step": line["step"]}
        for curve, metric in _LOGGED.items():
            value = line.get(prefix + metric)
            if value is not None and curve in _OVER_BETA:
                value /= beta
            row[curve] = value
        rows.append(row)
    types = {"step": pl.Int64, **dict.fromkeys(_LOGGED, pl.Float64)}
    return pl.DataFrame(rows, schema=types)
