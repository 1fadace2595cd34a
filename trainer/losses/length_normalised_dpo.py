"""Length-normalised DPO (arXiv 2411.15124): DPO on the mean log-ratio of a token.

    L = −log σ( β·[ mean_t logratio(y+_t) − mean_t logratio(y−_t) ] )

β is 10 to 50 times DPO's: a mean is that much smaller than a sum.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.losses.limits import above_zero
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    beta: float = 5.0

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    return -F.logsigmoid(config.beta * (chosen.mean_logratios - rejected.mean_logratios))
