"""RPO (arXiv 2405.16436): an SFT term holds the chosen log-prob, and keeps off over-optimisation."""

from pipelines.evidence.arms import DPO, Arm, Method
from pipelines.evidence.claims.claim import Claim, Judged, Tried, better, summary
from pipelines.evidence.intervals import of_mean
from pipelines.evidence.results import held_by_step, rewards_by_step
from pipelines.evidence.search import Search
from pipelines.evidence.verdicts import Verdict
from schemas.charts import Chart, by_name, color_of

_NAME = "rpo"
_BETA = 0.05  # the paper's
_RATE = 3e-4  # the highest of the search
_LONG = ("epochs=3", "max_steps=200", "schedule=constant")
_EVERY = 50  # steps
_RPO = Method("RPO", "rpo", ("rpo.eta=0.05",))  # what is searched
_SUMS = (0.005, 0.05, 0.5)
_MEANS = (0.2, 1.0)


def _arms(search: Search) -> list[Arm]:
    tuned = [search.of(method).arm(_tuned(method)) for method in (DPO, _RPO)]
    return [*_over_trained(), *tuned]


def _over_trained() -> list[Arm]:
    arms = [_arm("DPO", DPO, ())]
    for eta in _SUMS:
        arms.append(_arm(_sum(eta), _rpo("sum"), (f"rpo.eta={eta:g}",)))
    for eta in _MEANS:
        arms.append(_arm(_mean(eta), _rpo("mean"), (f"rpo.eta={eta:g}",)))
    arms.append(_arm("RPO, baseline", _rpo("sum"), ("rpo.eta=0.05", "rpo.y0=baseline")))
    return arms


def _tuned(method: Method) -> str:
    return f"{method.name}, as searched"


def _rpo(reduction: str) -> Method:
    return Method("RPO", "rpo", (f"rpo.reduction={reduction}",))


def _arm(name: str, method: Method, more: tuple[str, ...]) -> Arm:
    return Arm(name, method, _RATE, _BETA, "independent", (*_LONG, *more), checkpoints=_EVERY)


def _sum(eta: float) -> str:
    return f"RPO, sum, η {eta:g}"


def _mean(eta: float) -> str:
    return f"RPO, mean, η {eta:g}"


def _judge(tried: Tried) -> Judged:
    verdicts = [
        _drifts_less(
            tried, _sum(0.005), "with the paper's η 0.005 the chosen log-prob falls less than under DPO"
        ),
        _drifts_less(tried, _sum(0.05), "with ten times that η it falls less than under DPO"),
        better(_NAME, tried, _sum(0.005), "DPO", "over-trained with η 0.005, RPO earns more than DPO"),
        better(_NAME, tried, _sum(0.05), "DPO", "over-trained with η 0.05, RPO earns more than DPO"),
        better(_NAME, tried, _sum(0.5), "DPO", "over-trained with η 0.5, RPO earns more than DPO"),
        better(
            _NAME,
            tried,
            _sum(0.5),
            "reference",
            "over-trained with η 0.5, RPO still earns more than the model it began with",
        ),
        better(
            _NAME, tried, _mean(0.2), "DPO", "over-trained with the mean form, η 0.2, RPO earns more than DPO"
        ),
        better(
            _NAME, tried, _sum(0.05), "RPO, baseline", "the chosen response serves better than a baseline"
        ),
        better(
            _NAME,
            tried,
            _tuned(_RPO),
            _tuned(DPO),
            "not over-trained, each as the search chose, RPO with η 0.05 earns more than DPO",
        ),
    ]
    return Judged(
        verdicts=verdicts,
        tables={"arms": summary(tried, _arms(tried.search))},
        charts={"rpo": _chart(tried)},
        remarks=[
            f"Three epochs at a constant learning rate of {_RATE:g}, the highest of the search, "
            f"β {_BETA:g}: meant to be too much. "
            f"Every {_EVERY} steps a checkpoint answered the test problems.",
        ],
    )


def _drifts_less(tried: Tried, arm: str, question: str) -> Verdict:
    results = tried.results
    own, dpo = (results.held_out(name, "drift/chosen") for name in (arm, "DPO"))
    return Verdict(_NAME, question, of_mean(own - dpo), "nat", f"{own.mean():.1f} against {dpo.mean():.1f}")


def _chart(tried: Tried) -> Chart:
    """True reward, right answers and the log-prob of held-out chosen responses, along training."""
    names = [arm.name for arm in _over_trained()]
    rows: list[dict[str, object]] = []
    for name in names:
        for column, of in (("reward", "true reward"), ("right", "right answers")):
            # Every arm begins as the reference.
            begun = rewards_by_step(tried.results, "reference", column)
            for step, value in [*begun, *rewards_by_step(tried.results, name, column)]:
                rows.append({"step": step, "value": value, "arm": name, "of": of})
        for step, logps in held_by_step(tried.results, name):
            rows.append(
                {"step": step, "value": logps, "arm": name, "of": "log-prob of chosen, held out, nat"}
            )
    color = {
        "field": "arm",
        "type": "nominal",
        "title": None,
        "scale": by_name(names, [color_of(place) for place in range(len(names))]),
        "legend": {"orient": "top", "columns": 4},
    }
    y = {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}}
    encoding = {"x": {"field": "step", "type": "quantitative"}, "y": y, "color": color}
    return {
        "data": {"values": rows},
        "facet": {"column": {"field": "of", "type": "nominal", "title": None}},
        "spec": {
            "width": 220,
            "height": 200,
            "mark": {"type": "line", "point": True},
            "encoding": encoding,
        },
        "resolve": {"scale": {"y": "independent"}},
    }


CLAIM = Claim(
    name=_NAME,
    title="RPO: over-optimisation",
    paper="arXiv 2405.16436",
    says="Under DPO the chosen log-prob falls and the policy is over-optimised; the SFT term holds it.",
    setting="Independent pairs, three epochs at a constant learning rate: far beyond what is good for "
    "the policy. η swept, by sum (the paper's equation) and by mean (its code's second form); and a sample "
    "of the reference in place of the chosen response. Then both for one epoch, as the search chose.",
    methods=(DPO, _RPO),
    arms=_arms,
    judge=_judge,
)
