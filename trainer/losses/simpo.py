"""SimPO (arXiv 2405.14734, Eq. 6): length-normalised log-probs with a target margin, no reference.

L = −log σ( β·mean_t log π(y+_t) − β·mean_t log π(y−_t) − γ )
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.losses.limits import above_zero, within
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    beta: float = 2.0
    gamma: float = 1.0  # target margin (the paper gives γ/β, about 0.5)

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        within(0, float("inf"), gamma=self.gamma)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    return -F.logsigmoid(config.beta * (chosen.mean_logps - rejected.mean_logps) - config.gamma)
