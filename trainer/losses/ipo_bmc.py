"""BMC's weighting on IPO (arXiv 2408.07471, IPO-BMC): IPO by sum, the tokens in which the two responses differ weighing more.

    L = ( Σ_t λ(y+_t)·log[π/ref](y+_t) − Σ_t λ(y-_t)·log[π/ref](y-_t) − 1/(2β) )²,   λ as in bmc
"""

import torch

from trainer.losses import bmc
from trainer.losses.bmc import Config
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = bmc.NEEDS


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    return (bmc.weighted(chosen, config) - bmc.weighted(rejected, config) - 1 / (2 * config.beta)) ** 2
