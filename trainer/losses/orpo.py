"""ORPO (arXiv 2403.07691, Eqs. 6 and 7): SFT on the chosen response and the odds ratio of the two, no reference.

    L = −mean_t log π(y+_t) − β·log σ( log[odds(y+)/odds(y−)] ),   odds(y) = p/(1−p),  log p = mean_t log π(y_t)

β is the paper's λ.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.losses.limits import above_zero
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    beta: float = 0.1

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)


def log_odds(logps: torch.Tensor) -> torch.Tensor:
    """log p − log(1−p) of log p < 0; expm1 keeps it exact where p is near 1, and a p of 1 gives a large number, not infinity."""
    return logps - torch.log(-torch.expm1(logps.clamp_max(-torch.finfo(logps.dtype).eps)))


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    return -chosen.mean_logps - config.beta * F.logsigmoid(
        log_odds(chosen.mean_logps) - log_odds(rejected.mean_logps)
    )
