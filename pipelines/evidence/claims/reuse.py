"""One cache, many trainings: what is saved against making everything anew for each method."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from engine import clocks
from pipelines.evidence import work
from pipelines.evidence.arms import DPO, IPO, SCORE_MARGIN, SR_DPO, Arm, Method
from pipelines.evidence.claims.claim import Claim, Judged, Tried
from pipelines.evidence.intervals import of_mean
from pipelines.evidence.search import Search
from pipelines.evidence.setting import folder_of
from pipelines.evidence.verdicts import Verdict
from schemas.store import open_store
from schemas.trainings.read import train_folders

_NAME = "reuse"
_BRIDGED = "bridged"
_RPO = Method("RPO", "rpo")
_BMC = Method("DPO-BMC", "bmc", variant=_BRIDGED)
_METHODS = (DPO, IPO, SR_DPO, SCORE_MARGIN, _RPO, _BMC)
_HOW = (
    "A model call is a response sampled, rewritten or scored. Alone, a method would sample the four answers "
    "a prompt, rewrite where it is BMC's, and score the two sides of its pairs, in two contexts where it is "
    "Sr-DPO's. Counted at what a response of the stage took here."
)
_TWO_CONTEXTS = {"sr_dpo", "sr_ipo", "score_margin"}


def _arms(search: Search) -> list[Arm]:
    return [Arm(method.name, method, 3e-5, 0.3, method.variant) for method in _METHODS]


def _judge(tried: Tried) -> Judged:
    rows: list[dict[str, object]] = []
    shared: list[float] = []
    alone: list[float] = []
    training: list[float] = []
    for seed in tried.results.seeds:
        own = tried.results.trainings.filter(pl.col("seed") == seed)
        cost = _Cost(tried, seed)
        each = [cost.alone(loss, variant) for loss, variant in own.select("loss", "variant").iter_rows()]
        shared.append(cost.seconds / len(each))
        alone.append(sum(seconds for seconds, _ in each) / len(each))
        training.append(float(np.mean(own["seconds"].to_numpy())))
        rows.append(
            {
                "seed": seed,
                "trainings": len(each),
                "model calls, one cache": f"{cost.calls:,}",
                "model calls, each alone": f"{sum(calls for _, calls in each):,}",
                "seconds, one cache": round(cost.seconds, 1),
                "seconds, each alone": round(sum(seconds for seconds, _ in each), 1),
            }
        )
    return Judged(
        verdicts=_verdicts(np.array(shared), np.array(alone), np.array(training)),
        tables={"what one cache took, and what each method alone would have": pl.DataFrame(rows)},
        charts={},
        remarks=[_HOW, *_all_that_lies_there(tried)],
    )


def _verdicts(shared: np.ndarray, alone: np.ndarray, training: np.ndarray) -> list[Verdict]:
    """`shared`, `alone`, `training`: seconds a training, by seed."""
    saved = alone - shared
    share = saved / (alone + training)
    question = f"with {len(_METHODS)} trainings a cache, the engine's part of a training is shorter"
    figures = f"{np.mean(shared):.1f} s a training against {np.mean(alone):.1f} s"
    at_least = "a tenth of all time, training included, is saved"
    return [
        Verdict(_NAME, question, of_mean(saved), "s", figures),
        Verdict(_NAME, at_least, of_mean(share - 0.1), "of all time", f"{np.mean(share):.0%} of it"),
    ]


class _Cost:
    """What a seed's cache took, and from it what each method alone would take."""

    def __init__(self, tried: Tried, seed: int) -> None:
        folder = work.seed_folder(tried.out, seed)
        stages = clocks.read(open_store(folder / "cache")).stages
        self._stages = {name: stages[name] for name in ("generate", "rewrite", "logprobs")}
        self._run = folder
        self.calls = sum(spent.responses for spent in self._stages.values())
        self.seconds = sum(spent.seconds for spent in self._stages.values())

    def alone(self, loss: str, variant: str) -> tuple[float, int]:
        """(seconds, model calls) of a method that makes all that it needs, and no more, for itself."""
        from trainer.pairs import open_pairs

        pairs = open_pairs(self._run / folder_of(variant))
        count = pairs.count("train") + pairs.count("test")
        calls = {"generate": self._stages["generate"].responses}
        if variant == _BRIDGED:
            calls["rewrite"] = count
        calls["logprobs"] = 2 * count * (2 if loss in _TWO_CONTEXTS else 1)
        seconds = 0.0
        for name, responses in calls.items():
            spent = self._stages[name]
            seconds += responses * spent.seconds / max(1, spent.responses)
        return seconds, sum(calls.values())


def _all_that_lies_there(tried: Tried) -> Iterator[str]:
    """How many trainings of all claims were made from how many caches."""
    folders = [path for path in tried.out.glob("*/*") if (path / "plan.json").exists()]
    trainings = sum(len(train_folders(open_store(path))) for path in folders)
    caches = len(list(tried.out.glob("*/cache")))
    yield f"All claims tried so far in this folder: {trainings} trainings from {caches} caches."


CLAIM = Claim(
    name=_NAME,
    title="Reuse: one cache, many trainings",
    paper="this project's own claim",
    says="Candidates, rewrites and reference log-probs are made once, and every training is from them.",
    setting=f"{len(_METHODS)} methods are trained from one cache a seed, with no reference model in memory. "
    "What each would take alone is counted from what the stages took.",
    methods=(),
    arms=_arms,
    judge=_judge,
)
