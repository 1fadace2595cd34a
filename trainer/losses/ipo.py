"""IPO (arXiv 2310.12036, Eq. 17): regression to a finite margin, where DPO runs to certainty.

L = ( h − 1/(2β) )²,   h = logratio of chosen − logratio of rejected

β is the paper's τ. The paper and the DPO authors' code sum each log-ratio over its tokens. TRL takes the mean
per token, which its maintainers report the IPO authors confirmed. Both are here under `reduction`; their β
are not comparable.
"""

from dataclasses import dataclass

from schemas.fields import choice, number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.1, above=0)  # the inverse of twice the margin aimed at
    reduction: str = choice("mean", "mean", "sum")  # of a response's log-ratio over its tokens


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair; (1/(2β))² while policy = reference."""
    if config.reduction == "mean":
        gap = chosen.mean_logratios - rejected.mean_logratios
    else:
        gap = chosen.logratios - rejected.logratios
    return (gap - 1 / (2 * config.beta)) ** 2
