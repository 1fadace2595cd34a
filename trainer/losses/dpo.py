"""Direct preference optimisation (arXiv 2305.18290, Eq. 7), and conservative DPO by `label_smoothing`.

    L = −(1−ε)·log σ(m) − ε·log σ(−m),   m = β·(logratio of chosen − logratio of rejected)

Known weakness: the chosen log-prob itself may fall while the margin grows; watch logps/chosen.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from schemas.errors import UserError
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    beta: float = 0.1  # how closely the policy is held to the reference
    label_smoothing: float = 0.0  # ε, the share of preferences believed to be wrong

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise UserError(f"[train.dpo] beta = {self.beta}: expected a number above 0")
        if not 0 <= self.label_smoothing <= 0.5:
            raise UserError(f"[train.dpo] label_smoothing = {self.label_smoothing}: expected 0 to 0.5")


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    margin = config.beta * (chosen.logratios - rejected.logratios)
    return -(1 - config.label_smoothing) * F.logsigmoid(margin) - config.label_smoothing * F.logsigmoid(-margin)


def at_start(config: Config) -> float:
    """While policy = reference the margin is 0, whatever ε: log 2."""
    return math.log(2)
