"""WPO, weighted preference optimisation (arXiv 2406.11827): DPO with each pair weighted by how likely the
policy is to write it itself.

L = −sg[ w(y+)·w(y−) ]·log σ(m),   w(y) = exp( mean_t log π(y_t) )

m is DPO's margin, β·(logratio of chosen − logratio of rejected). The weight is the paper's plain one. Its
"sampled alignment" divides by Σ_v π(v)² at every position. That needs the whole distribution, not the
log-prob of one token, and is not here.
"""

from dataclasses import dataclass

from schemas.fields import number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.1, above=0)  # how closely the policy is held to the reference


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair."""
    weight = (chosen.mean_logps + rejected.mean_logps).detach().exp()
    margin = config.beta * (chosen.logratios - rejected.logratios)
    return -weight * log_sigmoid(margin)
