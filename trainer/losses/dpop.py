"""DPO-positive (arXiv 2402.13228, Eq. 3): a penalty wherever the chosen response is less likely than under the reference.

L = −log σ( β·( h − λ·max(0, log ref(y+|x) − log π(y+|x)) ) ),   h = logratio of chosen − logratio of rejected
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.losses.limits import above_zero, within
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    beta: float = 0.3
    lam: float = 50.0

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        within(0, float("inf"), lam=self.lam)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    fallen = torch.relu(-chosen.logratios)
    return -F.logsigmoid(config.beta * (chosen.logratios - rejected.logratios - config.lam * fallen))
