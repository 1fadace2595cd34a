"""What was measured of all arms, as tables and as arrays of seeds × problems."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.evidence.arms import Arm
from pipelines.evidence.intervals import Values
from pipelines.evidence.work import Made
from schemas.manifest import MANIFEST, read_json
from schemas.store import open_store
from schemas.trainings.read import Trained, trained_in

_METRICS = ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen")
_MARGINS = {"problem": pl.Int64, "gap": pl.Float64, "margin": pl.Float64, "arm": pl.String, "seed": pl.Int32}


@dataclass(frozen=True)
class Results:
    """`samples`: columns arm, seed, step, is_last, problem, sample, PARTS, kl …; `margins`: arm, seed, step,
    problem, gap, margin; `trainings`: a row for each arm and seed, with the held-out metrics and the
    gap of the pairs of the last epoch, nat; `held`: arm, seed, step, logps_chosen of the held-out pairs along
    training."""

    samples: pl.DataFrame
    margins: pl.DataFrame
    trainings: pl.DataFrame
    held: pl.DataFrame
    test_problems: int

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return sorted(self.samples["seed"].unique().to_list())

    def of(self, arm: str, column: str = "reward") -> Values:
        """(seeds, problems) means over samples of the arm's last policy."""
        rows = self.samples.filter((pl.col("arm") == arm) & pl.col("is_last"))
        assert len(rows), f"no arm {arm}"
        means = rows.group_by("seed", "problem").agg(pl.col(column).cast(pl.Float64).mean())
        return self._table(means, column)

    def margin(self, arm: str, column: str = "margin") -> Values:
        """(seeds, problems) of the arm's last policy; NaN where two samples were alike."""
        return self._table(self.margins.filter((pl.col("arm") == arm) & pl.col("is_last")), column)

    def held_out(self, arm: str, metric: str) -> Values:
        """(seeds,) of a metric of the trainings."""
        rows = self.trainings.filter(pl.col("arm") == arm).sort("seed")
        return rows[metric].to_numpy()

    def mean(self, arm: str, column: str = "reward") -> float:
        """Over all seeds and problems."""
        return float(np.nanmean(self.of(arm, column)))

    def _table(self, rows: pl.DataFrame, column: str) -> Values:
        values = np.full((len(self.seeds), self.test_problems), np.nan)
        place = {seed: number for number, seed in enumerate(self.seeds)}
        for seed, problem, value in rows.select("seed", "problem", column).iter_rows():
            values[place[seed], problem] = value
        return values


def gathered(
    made: Mapping[tuple[Arm, int], Made], references: Mapping[int, Path], test_problems: int
) -> Results:
    """All that was measured. `references`: what the reference answers, by seed: the arm `reference`."""
    samples: list[pl.DataFrame] = []
    margins: list[pl.DataFrame] = []
    trainings: list[dict[str, Any]] = []
    held: list[pl.DataFrame] = []
    for (arm, seed), one in made.items():
        trained = trained_in(open_store(one.folder))
        assert trained is not None, "it has made its last step"
        last = max(one.samples)
        for step in one.samples:
            named = _columns(arm.name, seed, step, is_last=step == last)
            samples.append(pl.read_parquet(one.samples[step]).with_columns(named))
            if step in one.margins:
                margins.append(pl.read_parquet(one.margins[step]).with_columns(named))
        trainings.append(_training(arm, seed, one) | {"gap": _gap_of_last_epoch(trained)})
        named = [pl.lit(arm.name).alias("arm"), pl.lit(seed).alias("seed")]
        held.append(trained.eval.select("step", "logps_chosen").with_columns(named))
    for seed, path in references.items():
        named = _columns("reference", seed, 0, is_last=True)
        samples.append(pl.read_parquet(path).with_columns(named))
    kl = (pl.col("logps") - pl.col("ref_logps")).alias("kl")
    return Results(
        samples=pl.concat(samples, how="diagonal_relaxed").with_columns(kl),
        margins=pl.concat([*margins, pl.DataFrame(schema=_MARGINS)], how="diagonal_relaxed"),
        trainings=pl.DataFrame(trainings, infer_schema_length=None),
        held=pl.concat(held),
        test_problems=test_problems,
    )


def _columns(arm: str, seed: int, step: int, is_last: bool) -> list[pl.Expr]:
    """What says whose rows these are."""
    values = {"arm": arm, "seed": seed, "step": step, "is_last": is_last}
    return [pl.lit(value).alias(name) for name, value in values.items()]


def _training(arm: Arm, seed: int, made: Made) -> dict[str, Any]:
    """A row of `trainings`: settings, time, and the metrics that the training ended with."""
    manifest = read_json(open_store(made.folder), MANIFEST)
    metrics: dict[str, float] = manifest["metrics"]
    beta = arm.beta if arm.method.has_beta else 1.0
    row: dict[str, Any] = {
        "arm": arm.name,
        "seed": seed,
        "loss": arm.method.loss,
        "variant": arm.variant,
        "learning_rate": arm.learning_rate,
        "beta": beta,
        "settings": " ".join(arm.settings()),
        "steps": manifest["steps"],
        "seconds": made.seconds[0],
        "measure_seconds": made.seconds[1],
        "folder": "/".join(made.folder.parts[-3:]),
    }
    for name in (*(f"eval_{metric}" for metric in _METRICS), *_METRICS):
        row[name] = metrics.get(name)
    chosen = metrics.get("eval_rewards/chosen")
    row["drift/chosen"] = None if chosen is None else chosen / beta
    return row


def _gap_of_last_epoch(trained: Trained) -> float:
    """The mean log-ratio of chosen less that of rejected, nat, on the batches of the last epoch."""
    epochs = trained.facts["train.epochs"]
    assert isinstance(epochs, int)
    steps = len(trained.train) // epochs
    return float(trained.train["margin"].tail(steps).to_numpy().mean())


def held_by_step(results: Results, arm: str) -> list[tuple[int, float]]:
    """(step, mean log-prob of the held-out chosen responses, nat) over the seeds of an arm."""
    return _means_by_step(results.held.filter(pl.col("arm") == arm), "logps_chosen")


def rewards_by_step(results: Results, arm: str, column: str = "reward") -> list[tuple[int, float]]:
    """(step, mean) over seeds and problems of an arm whose checkpoints were measured."""
    return _means_by_step(results.samples.filter(pl.col("arm") == arm), column)


def _means_by_step(rows: pl.DataFrame, column: str) -> list[tuple[int, float]]:
    means = rows.group_by("step").agg(pl.col(column).mean())
    ordered = means.sort("step")
    return [(int(step), float(value)) for step, value in ordered.iter_rows()]


def concatenated(columns: Sequence[Values]) -> Values:
    """(seeds, problems, columns) of several tables."""
    return np.stack(columns, axis=-1)
