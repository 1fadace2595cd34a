"""Hinge, SLiC's calibration on log-ratios (arXiv 2309.06657; 2305.10425).

L = max(0, 1 − m),   m = β·(logratio of chosen − logratio of rejected)
"""

from dataclasses import dataclass

import torch

from trainer.losses.limits import above_zero
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    beta: float = 0.1  # the inverse of the margin wanted in log-ratios

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair; 1 while policy = reference."""
    return torch.relu(1 - config.beta * (chosen.logratios - rejected.logratios))
