"""BMC (arXiv 2408.07471): bridging the pair, and weighting the tokens in which its two sides differ."""

import numpy as np
import polars as pl

from pipelines.evidence.arms import DPO, IPO, Arm, Method, on
from pipelines.evidence.caches import made
from pipelines.evidence.claims.claim import Claim, Judged, Tried, better, dot, dots, summary
from pipelines.evidence.search import Search
from pipelines.evidence.verdicts import Verdict
from pipelines.evidence.work import seed_folder

_NAME = "bmc"
_BRIDGED = "bridged"
_WORSE = "bridged worse"
_BC = on(DPO, _BRIDGED, "DPO-BC")
_MC = Method("DPO-MC", "bmc")
_BMC = Method("DPO-BMC", "bmc", variant=_BRIDGED)
_IPO_BC = on(IPO, _BRIDGED, "IPO-BC")
_IPO_MC = Method("IPO-MC", "ipo_bmc")
_IPO_BMC = Method("IPO-BMC", "ipo_bmc", variant=_BRIDGED)
_DELTAS = (1.0, 5.0)
_CODE = "DPO-BMC, the code's form"


def _arms(search: Search) -> list[Arm]:
    arms = [search.of(method).arm() for method in (DPO, _BC, _MC, _BMC, IPO, _IPO_BC, _IPO_MC, _IPO_BMC)]
    for method in (_BC, _BMC):
        arms.append(search.of(method).arm(_worse(method), _WORSE))
    for delta in _DELTAS:
        arms.append(search.of(_BMC).arm(f"DPO-BMC, δ {delta:g}", more=[f"bmc.delta={delta:g}"]))
    arms.append(search.of(_BMC).arm(_CODE, more=["bmc.weighting=code"]))
    return arms


def _worse(method: Method) -> str:
    return f"{method.name}, worse rewriter"


def _judge(tried: Tried) -> Judged:
    def than(one: str, other: str, question: str = "") -> Verdict:
        return better(_NAME, tried, one, other, question)

    verdicts = [
        than("DPO-BMC", "DPO", "DPO-BMC earns more true reward than DPO on independent pairs"),
        than("DPO-BC", "DPO", "bridging alone (DPO-BC) earns more than DPO"),
        than("DPO-MC", "DPO", "weighting alone (DPO-MC) earns more than DPO"),
        than("DPO-BMC", "DPO-BC", "weighting adds to bridging"),
        than("IPO-BMC", "IPO", "IPO-BMC earns more true reward than IPO on independent pairs"),
        than("IPO-BC", "IPO", "bridging alone (IPO-BC) earns more than IPO"),
        than("IPO-MC", "IPO", "weighting alone (IPO-MC) earns more than IPO"),
        than("DPO-BC", _worse(_BC), "a better rewriter makes bridging better"),
        than("DPO-BMC", _CODE, "the paper's weighting earns more than the code's"),
    ]
    rows = [dot(tried.results, arm.name, arm.method.name) for arm in _arms(tried.search)]
    return Judged(
        verdicts=verdicts,
        tables={"arms": summary(tried, _arms(tried.search)), "rewriters": _rewriters(tried)},
        charts={"bmc": dots("True reward", rows)},
        remarks=["δ is 2.5, the paper's for mathematics, but where another is named."],
    )


def _rewriters(tried: Tried) -> pl.DataFrame:
    """What both rewriters did with the drafts, as means over the seeds."""
    rows: list[dict[str, object]] = []
    for variant, name in ((_BRIDGED, "greedy"), (_WORSE, "at temperature 1.5")):
        figures = [made(seed_folder(tried.out, seed), variant) for seed in tried.results.seeds]
        mean: dict[str, float] = {}
        for key in figures[0]:
            mean[key] = float(np.mean([one[key] for one in figures]))
        rows.append(
            {
                "rewriter": name,
                "drafts": f"{mean['drafts']:.0f}",
                "used": f"{mean['used']:.1%}",
                "words from ỹ+ to y−": round(mean["words_to_draft"], 1),
                "words from y+ to y−": round(mean["words_reference_to_draft"], 1),
                "reward of ỹ+ less that of y−": f"{mean['gain']:+.3f}",
            }
        )
    return pl.DataFrame(rows)


CLAIM = Claim(
    name=_NAME,
    title="BMC: bridging and weighting",
    paper="arXiv 2408.07471",
    says="Bridging and weighting each make DPO and IPO better, and both together most.",
    setting="The paper's ablation on the same problems: independent pairs (y+, y−), and pairs (ỹ+, y−) of "
    "which the model rewrote the rejected side by the chosen one. A worse rewriter is the same model at "
    "temperature 1.5.",
    methods=(DPO, _BC, _MC, _BMC, IPO, _IPO_BC, _IPO_MC, _IPO_BMC),
    arms=_arms,
    judge=_judge,
)
