"""R-DPO, length-regularised DPO (arXiv 2403.19159): a longer chosen response needs less of a margin to count, so length is not learnt as quality.

L = −log σ( m + α·(|y+| − |y−|) ),   m = β·(logratio of chosen − logratio of rejected)
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
    alpha: float = 0.01  # a token's worth of margin

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    longer = config.alpha * (chosen.lengths - rejected.lengths)
    return -F.logsigmoid(config.beta * (chosen.logratios - rejected.logratios) + longer)
