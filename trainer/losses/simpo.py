"""SimPO (arXiv 2405.14734, Eq. 6): length-normalised log-probs with a target margin, no reference.

L = −log σ( β·mean_t log π(y+_t) − β·mean_t log π(y−_t) − γ )
"""

from dataclasses import dataclass

from schemas.fields import number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(2.0, above=0)  # the factor of the mean log-probs
    gamma: float = number(1.0, low=0)  # target margin (the paper gives γ/β, about 0.5)


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair."""
    margin = config.beta * (chosen.mean_logps - rejected.mean_logps)
    return -log_sigmoid(margin - config.gamma)
