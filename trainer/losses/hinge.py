"""Hinge, SLiC's calibration on log-ratios (arXiv 2309.06657; 2305.10425).

L = max(0, 1 − m),   m = β·(logratio of chosen − logratio of rejected)
"""

from dataclasses import dataclass

from schemas.fields import number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.1, above=0)  # the inverse of the margin wanted in log-ratios


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair; 1 while policy = reference."""
    margin = config.beta * (chosen.logratios - rejected.logratios)
    return (1 - margin).relu()
