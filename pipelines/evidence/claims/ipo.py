"""IPO (arXiv 2310.12036): a bound where DPO runs to certainty; and noisy labels, with cDPO and robust DPO."""

from pipelines.evidence.arms import DPO, IPO, Arm, Method, on
from pipelines.evidence.claims.claim import Claim, Judged, Tried, better, dot, dots, summary
from pipelines.evidence.intervals import of_mean
from pipelines.evidence.search import Search
from pipelines.evidence.verdicts import Verdict

_NAME = "ipo"
_SEARCHED = "20 % flipped"
_NOISE = {0.0: "independent", 0.1: "10 % flipped", 0.2: "20 % flipped", 0.3: "30 % flipped"}
_DPO = on(DPO, _SEARCHED)
_IPO = on(IPO, _SEARCHED)
_CDPO = Method("cDPO", "dpo", ("dpo.label_smoothing=0.2",), _SEARCHED)
_ROBUST = Method("robust DPO", "robust_dpo", ("robust_dpo.label_smoothing=0.2",), _SEARCHED)
_LONG = ("epochs=3", "schedule=constant")
_BOUND_BETA = 0.1
_BOUND_RATE = 3e-4  # the highest of the search


def _arms(search: Search) -> list[Arm]:
    arms: list[Arm] = []
    for noise, variant in _NOISE.items():
        for method in (_DPO, _IPO):
            arms.append(search.of(method).arm(_name(method, noise), variant))
        if noise:
            smoothing = f"label_smoothing={noise:g}"
            arms.append(search.of(_CDPO).arm(_name(_CDPO, noise), variant, [f"dpo.{smoothing}"]))
            arms.append(search.of(_ROBUST).arm(_name(_ROBUST, noise), variant, [f"robust_dpo.{smoothing}"]))
    for method in (_DPO, _IPO):
        arms.append(Arm(_certain(method), method, _BOUND_RATE, _BOUND_BETA, "certain", _LONG))
    return arms


def _name(method: Method, noise: float) -> str:
    return f"{method.name}, {noise:.0%} flipped"


def _certain(method: Method) -> str:
    return f"{method.name}, certain, 3 epochs"


def _judge(tried: Tried) -> Judged:
    results = tried.results
    bound = 1 / (2 * _BOUND_BETA)
    gaps = {method.name: results.held_out(_certain(method), "gap") for method in (_DPO, _IPO)}
    verdicts = [
        Verdict(
            _NAME,
            f"on certain preferences DPO's gap runs past {bound:g} nat, where IPO's loss has its minimum",
            of_mean(gaps["DPO"] - bound),
            "nat",
            f"DPO's gap is {gaps['DPO'].mean():.1f} nat",
        ),
        Verdict(
            _NAME,
            "on the same pairs IPO's gap stays below that of DPO",
            of_mean(gaps["DPO"] - gaps["IPO"]),
            "nat",
            f"IPO's gap is {gaps['IPO'].mean():.1f} nat",
        ),
        better(_NAME, tried, _certain(_IPO), _certain(_DPO), "there IPO earns more true reward than DPO"),
    ]
    for noise in _NOISE:
        others = (_IPO, _CDPO, _ROBUST) if noise else (_IPO,)
        for method in others:
            verdicts.append(better(_NAME, tried, _name(method, noise), _name(_DPO, noise)))
    rows: list[dict[str, object]] = []
    for noise in _NOISE:
        for method in (_DPO, _IPO, *((_CDPO, _ROBUST) if noise else ())):
            rows.append(dot(results, _name(method, noise), method.name))
    return Judged(
        verdicts=verdicts,
        tables={"arms": summary(tried, _arms(tried.search))},
        charts={"ipo": dots("True reward with flipped labels", rows)},
        remarks=[
            "cDPO and robust DPO are told the true share of flipped labels. Preferences are noisy before any "
            "is flipped: they are sampled by Bradley-Terry. Learning rate and β are those that the search "
            "found best with 20 % flipped.",
            "The gap is the mean log-ratio of chosen less that of rejected, over the last epoch.",
        ],
    )


CLAIM = Claim(
    name=_NAME,
    title="IPO: certain preferences and noisy labels",
    paper="arXiv 2310.12036",
    says="Where preferences are certain DPO ignores its KL term and overfits; IPO keeps to a bound.",
    setting="The better of two responses is always chosen, and three epochs are trained at a constant "
    f"learning rate of {_BOUND_RATE:g}, β {_BOUND_BETA:g}. "
    "Then 0, 10, 20 and 30 % of sampled preferences are turned round, one epoch.",
    methods=(_DPO, _IPO, _CDPO, _ROBUST),
    arms=_arms,
    judge=_judge,
)
