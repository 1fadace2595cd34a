"""Length-normalised DPO (arXiv 2411.15124): DPO on the mean log-ratio of a token.

L = −log σ( β·[ mean_t logratio(y+_t) − mean_t logratio(y−_t) ] )

β is 10 to 50 times DPO's: a mean is that much smaller than a sum.
"""

from dataclasses import dataclass

from schemas.fields import number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(5.0, above=0)  # how closely the policy is held to the reference


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair; log 2 while policy = reference."""
    margin = config.beta * (chosen.mean_logratios - rejected.mean_logratios)
    return -log_sigmoid(margin)
