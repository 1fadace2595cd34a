"""IPO (arXiv 2310.12036, Eq. 17): regression to a finite margin, where DPO runs to certainty.

    L = ( h − 1/(2β) )²,   h = logratio of chosen − logratio of rejected

β is the paper's τ. The paper and the DPO authors' code sum each log-ratio over its tokens; TRL takes the mean per token, which its
maintainers report the IPO authors confirmed. Both are here under `reduction`; their β are not comparable.
"""

from dataclasses import dataclass

import torch

from trainer.losses.limits import above_zero, one_of
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    beta: float = 0.1
    reduction: str = "mean"  # of a response's log-ratio over its tokens: mean or sum

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        one_of("mean", "sum", reduction=self.reduction)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair; (1/(2β))² while policy = reference."""
    mean = config.reduction == "mean"
    gap = chosen.mean_logratios - rejected.mean_logratios if mean else chosen.logratios - rejected.logratios
    return (gap - 1 / (2 * config.beta)) ** 2
