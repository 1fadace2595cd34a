"""Robust DPO (arXiv 2403.00409): an unbiased estimate of DPO's loss where a share ε of the preferences is flipped.

L = [ −(1−ε)·log σ(m) + ε·log σ(−m) ] / (1−2ε),   m = β·(logratio of chosen − logratio of rejected)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.losses.limits import above_zero, within
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    beta: float = 0.1
    label_smoothing: float = 0.1  # ε, the share of preferences believed to be flipped; below 0.5

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        within(0, 0.499, label_smoothing=self.label_smoothing)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    margin, flipped = config.beta * (chosen.logratios - rejected.logratios), config.label_smoothing
    return (-(1 - flipped) * F.logsigmoid(margin) + flipped * F.logsigmoid(-margin)) / (1 - 2 * flipped)
