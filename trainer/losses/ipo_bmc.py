"""BMC's weighting on IPO (arXiv 2408.07471, IPO-BMC): tokens in which the two responses differ weigh more.

L = ( Σ_t λ(y+_t)·log[π/ref](y+_t) − Σ_t λ(y-_t)·log[π/ref](y-_t) − 1/(2β) )²,   λ as in bmc

`reduction = "mean"` divides each sum by its response's tokens, as the official code and TRL's IPO do. The
other keys are those of bmc.
"""

from dataclasses import dataclass

from schemas.fields import choice
from trainer.losses import bmc
from trainer.losses.side import Side, Tensor


@dataclass(frozen=True)
class Config(bmc.Config):
    reduction: str = choice("sum", "sum", "mean")  # of a response's weighted log-ratio over its tokens


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair; (1/(2β))² while policy = reference."""
    chosen_logratios = bmc.weighted_logratios(chosen, config)
    rejected_logratios = bmc.weighted_logratios(rejected, config)
    if config.reduction == "mean":
        chosen_logratios = chosen_logratios / chosen.lengths
        rejected_logratios = rejected_logratios / rejected.lengths
    return (chosen_logratios - rejected_logratios - 1 / (2 * config.beta)) ** 2
