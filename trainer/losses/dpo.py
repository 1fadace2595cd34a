"""Direct preference optimisation (arXiv 2305.18290, Eq. 7), and conservative DPO by `label_smoothing`.

    L = −(1−ε)·log σ(m) − ε·log σ(−m),   m = β·(logratio of chosen − logratio of rejected)

Known weakness: the chosen log-prob itself may fall while the margin grows; watch logps/chosen.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.losses.limits import above_zero, within
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    beta: float = 0.1  # how closely the policy is held to the reference
    label_smoothing: float = 0.0  # ε, the share of preferences believed to be wrong

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        within(0, 0.5, label_smoothing=self.label_smoothing)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    margin = config.beta * (chosen.logratios - rejected.logratios)
    return -(1 - config.label_smoothing) * F.logsigmoid(margin) - config.label_smoothing * F.logsigmoid(
        -margin
    )
