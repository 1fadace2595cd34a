"""Robust DPO (arXiv 2403.00409): an unbiased estimate of DPO's loss if a share ε of preferences is flipped.

L = [ −(1−ε)·log σ(m) + ε·log σ(−m) ] / (1−2ε),   m = β·(logratio of chosen − logratio of rejected)
"""

from dataclasses import dataclass

from schemas.fields import number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.1, above=0)  # how closely the policy is held to the reference
    # ε, the share of preferences believed to be flipped; below 0.5.
    label_smoothing: float = number(0.1, low=0, high=0.499)


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair."""
    margin = config.beta * (chosen.logratios - rejected.logratios)
    flipped = config.label_smoothing
    smoothed = -(1 - flipped) * log_sigmoid(margin) + flipped * log_sigmoid(-margin)
    return smoothed / (1 - 2 * flipped)
