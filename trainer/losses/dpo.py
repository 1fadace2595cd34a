"""Direct preference optimisation (arXiv 2305.18290, Eq. 7), and conservative DPO by `label_smoothing`.

L = −(1−ε)·log σ(m) − ε·log σ(−m),   m = β·(logratio of chosen − logratio of rejected)

Known weakness: the chosen log-prob itself may fall while the margin grows; watch logps/chosen.
"""

from dataclasses import dataclass

from schemas.fields import number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.1, above=0)  # how closely the policy is held to the reference
    # ε, the share of preferences believed to be wrong.
    label_smoothing: float = number(0.0, low=0, high=0.5)


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair; log 2 while policy = reference."""
    margin = config.beta * (chosen.logratios - rejected.logratios)
    wrong = config.label_smoothing
    return -(1 - wrong) * log_sigmoid(margin) - wrong * log_sigmoid(-margin)
