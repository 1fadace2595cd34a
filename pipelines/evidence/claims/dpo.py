"""DPO (arXiv 2305.18290): the best frontier of reward against KL."""

import numpy as np
import polars as pl

from pipelines.evidence.arms import DPO, SFT, Arm
from pipelines.evidence.claims.claim import Claim, Judged, Tried, better, summary
from pipelines.evidence.intervals import bootstrapped
from pipelines.evidence.results import concatenated
from pipelines.evidence.search import Search
from pipelines.evidence.verdicts import Verdict
from schemas.charts import Chart

_BETAS = (0.03, 0.1, 0.3, 1.0, 3.0)
_MANY = 16
_NAME = "dpo"


def _arms(search: Search) -> list[Arm]:
    tuned = search.of(DPO)
    arms = [tuned.arm(_name(beta), beta=beta) for beta in _BETAS]
    return [*arms, search.of(SFT).arm()]


def _name(beta: float) -> str:
    return f"DPO, β {beta:g}"


def _judge(tried: Tried) -> Judged:
    chosen = _name(tried.search.of(DPO).beta)
    best_of = _best_of_n(tried)
    verdicts = [
        better(_NAME, tried, chosen, "reference", "DPO earns more true reward than the model it began with"),
        _at_equal_kl(tried, "SFT", "at the KL of SFT on the chosen responses, DPO earns more true reward"),
        better(_NAME, tried, chosen, "SFT", "DPO, at the β that the search chose, earns more than SFT"),
        _against_best_of(tried, best_of, 2),
    ]
    return Judged(
        verdicts=verdicts,
        tables={"arms": summary(tried, _arms(tried.search)), "best of n, by the true reward": best_of},
        charts={"dpo": _chart(tried, best_of)},
        remarks=[
            "Best-of-n chooses by the true reward itself, which no method here sees: it is a bound, not a "
            "rival. Its KL is at most log n − (n−1)/n.",
            "The frontier is DPO over these β and the reference; between two of them it is a line, and "
            "beyond the last it is level.",
        ],
    )


def _best_of_n(tried: Tried) -> pl.DataFrame:
    """The expected true reward of the best of n samples, without bias, from _MANY samples of each problem."""
    rows: list[dict[str, object]] = []
    rewards: list[np.ndarray] = []
    for path in tried.many.values():
        frame = pl.read_parquet(path).sort("problem", "sample")
        rewards.append(np.sort(frame["reward"].to_numpy().reshape(-1, _MANY), axis=1))
    for n in (1, 2, 4, 8, 16):
        weights = np.array([_chance_to_be_best(rank, n) for rank in range(_MANY)])
        means = [float((ranked * weights).sum(1).mean()) for ranked in rewards]
        bound = float(np.log(n) - (n - 1) / n)
        reward = float(np.mean(means))
        rows.append({"n": n, "KL at most": round(bound, 3), "reward": round(reward, 4)})
    return pl.DataFrame(rows)


def _chance_to_be_best(rank: int, n: int) -> float:
    """The chance that the sample of this rank (0: the worst) is the best of n drawn without replacement."""
    from math import comb

    return comb(rank, n - 1) / comb(_MANY, n)


def _points(tried: Tried) -> np.ndarray:
    """(seeds, problems, 2 × (β and the reference)): KL and reward of every point of the frontier."""
    results = tried.results
    arms = ["reference", *map(_name, _BETAS)]
    columns = [results.of(arm, "kl") for arm in arms] + [results.of(arm) for arm in arms]
    return concatenated(columns)


def _frontier(of_seed: np.ndarray, kl: float) -> float:
    """The reward of the frontier at a KL. `of_seed`: means of _points."""
    half = len(of_seed) // 2
    order = np.argsort(of_seed[:half])
    return float(np.interp(kl, of_seed[:half][order], of_seed[half:][order]))


def _at_equal_kl(tried: Tried, other: str, question: str) -> Verdict:
    results = tried.results
    points = _points(tried)
    others = concatenated([results.of(other, "kl"), results.of(other)])

    def gain(drawn: np.ndarray) -> float:
        of_seeds = drawn.mean(1)
        gains = [_frontier(one[:-2], one[-2]) - one[-1] for one in of_seeds]
        return float(np.mean(gains))

    value = bootstrapped(gain, np.concatenate([points, others], axis=-1))
    kl = results.mean(other, "kl")
    return Verdict(_NAME, question, value, "reward", f"at a KL of {kl:.2f} nat")


def _against_best_of(tried: Tried, best_of: pl.DataFrame, n: int) -> Verdict:
    row = best_of.filter(pl.col("n") == n)
    kl, reward = float(row["KL at most"][0]), float(row["reward"][0])

    def gain(drawn: np.ndarray) -> float:
        return float(np.mean([_frontier(one, kl) - reward for one in drawn.mean(1)]))

    question = f"at equal KL, DPO earns as much as the best of {n} samples by the true reward"
    return Verdict(_NAME, question, bootstrapped(gain, _points(tried)), "reward", f"at a KL of {kl:.2f} nat")


def _chart(tried: Tried, best_of: pl.DataFrame) -> Chart:
    """Reward against KL: DPO's line over β, SFT, best-of-n, the reference."""
    results = tried.results
    rows: list[dict[str, object]] = []
    for arm in ("reference", *map(_name, reversed(_BETAS))):
        kl, reward = results.mean(arm, "kl"), results.mean(arm)
        rows.append(
            {"KL": max(kl, 0), "reward": reward, "of": "DPO over β", "name": arm.removeprefix("DPO, ")}
        )
    rows.append({"KL": results.mean("SFT", "kl"), "reward": results.mean("SFT"), "of": "SFT", "name": ""})
    for row in best_of.iter_rows(named=True):
        named = f"n = {row['n']}"
        rows.append({"KL": row["KL at most"], "reward": row["reward"], "of": "best of n", "name": named})
    x = {"field": "KL", "type": "quantitative", "title": "KL from the reference, nat"}
    y = {"field": "reward", "type": "quantitative", "title": "true reward", "scale": {"zero": False}}
    color = {"field": "of", "type": "nominal", "title": None, "legend": {"orient": "top"}}
    return {
        "title": "True reward against KL",
        "width": 420,
        "height": 260,
        "data": {"values": rows},
        "encoding": {"x": x, "y": y, "color": color},
        "layer": [
            {"mark": {"type": "line", "point": True}},
            {
                "mark": {"type": "text", "dy": -9, "fontSize": 10},
                "encoding": {"text": {"field": "name", "type": "nominal"}},
            },
        ],
    }


CLAIM = Claim(
    name=_NAME,
    title="DPO: reward against KL",
    paper="arXiv 2305.18290",
    says="DPO has the best frontier of reward against KL, and is no worse than the best of n samples.",
    setting="DPO over β on independent pairs, beside SFT on the chosen responses, the best of n samples of "
    "the reference, and the reference. KL is measured on each policy's own samples.",
    methods=(DPO, SFT),
    arms=_arms,
    judge=_judge,
    many_samples=_MANY,
)
