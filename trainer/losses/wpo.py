"""WPO, weighted preference optimisation (arXiv 2406.11827): DPO, a pair weighted by how likely the policy would have written it itself.

    L = −sg[ w(y+)·w(y−) ]·log σ(m),   w(y) = exp( mean_t log π(y_t) )

The paper's plain weight. Its "sampled alignment" divides by Σ_v π(v)² at every position, which needs the whole distribution, not the log-prob
of one token, and is not here.
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


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    weight = (chosen.mean_logps + rejected.mean_logps).detach().exp()
    return -weight * F.logsigmoid(config.beta * (chosen.logratios - rejected.logratios))
