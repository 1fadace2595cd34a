"""R-DPO, length-regularised DPO (arXiv 2403.19159): a longer chosen response needs a smaller
margin, so length is not learnt as quality.

L = −log σ( m + α·(|y+| − |y−|) ),   m = β·(logratio of chosen − logratio of rejected)
"""

from dataclasses import dataclass

from schemas.fields import number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.1, above=0)  # how closely the policy is held to the reference
    alpha: float = number(0.01)  # the margin that one token of length is worth


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair."""
    margin = config.beta * (chosen.logratios - rejected.logratios)
    longer = config.alpha * (chosen.lengths - rejected.lengths)
    return -log_sigmoid(margin + longer)
