"""BMC's weighting on IPO (arXiv 2408.07471, IPO-BMC): IPO, the tokens in which the two responses differ weighing more.

    L = ( Σ_t λ(y+_t)·log[π/ref](y+_t) − Σ_t λ(y-_t)·log[π/ref](y-_t) − 1/(2β) )²,   λ as in bmc

`reduction = "mean"` divides each sum by its response's tokens, as the official code and TRL's IPO do.
"""

from dataclasses import dataclass

import torch

from trainer.losses import bmc
from trainer.losses.limits import above_zero, one_of, within
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = bmc.NEEDS


@dataclass(frozen=True)
class Config:
    beta: float = 0.05
    delta: float = 2.5  # the most that an unsure token gains
    weighting: str = "paper"  # or code
    reduction: str = "sum"  # of a response's weighted log-ratio over its tokens: sum or mean

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        within(0, float("inf"), delta=self.delta)
        one_of("paper", "code", weighting=self.weighting)
        one_of("sum", "mean", reduction=self.reduction)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair; (1/(2β))² while policy = reference."""
    win, lose = (bmc.weighted(side, config.delta, config.weighting) for side in (chosen, rejected))
    if config.reduction == "mean":
        win, lose = win / chosen.lengths, lose / rejected.lengths
    return (win - lose - 1 / (2 * config.beta)) ** 2
