"""LD-DPO, length-desensitised DPO (arXiv 2409.06411): what the longer response has beyond the shorter one's length counts by α.

    L = −log σ( β·[ Σ_t w(t)·logratio(y+_t) − Σ_t w(t)·logratio(y−_t) ] ),   w(t) = 1 for t ≤ min(|y+|, |y−|), else α

α = 1 is DPO; α = 0 forgets the excess.
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
    alpha: float = 0.5

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        within(0, 1, alpha=self.alpha)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    shared = torch.minimum(chosen.lengths, rejected.lengths)[:, None]

    def weighted(side: Side) -> torch.Tensor:
        place = torch.arange(side.mask.shape[1], device=side.mask.device)
        return (torch.where(place < shared, 1.0, config.alpha) * side.token_logratios).sum(-1)

    return -F.logsigmoid(config.beta * (weighted(chosen) - weighted(rejected)))
