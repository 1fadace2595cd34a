"""DPO-positive (arXiv 2402.13228, Eq. 3): DPO with a penalty where log π(y+|x) is below log ref(y+|x).

L = −log σ( β·( h − λ·max(0, log ref(y+|x) − log π(y+|x)) ) )
h = logratio of chosen − logratio of rejected
"""

from dataclasses import dataclass

from schemas.fields import number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.3, above=0)  # how closely the policy is held to the reference
    lam: float = number(50.0, low=0)  # λ, the weight of the penalty; 0 is DPO


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair; log 2 while policy = reference."""
    fallen = (-chosen.logratios).relu()
    gap = chosen.logratios - rejected.logratios
    return -log_sigmoid(config.beta * (gap - config.lam * fallen))
