"""ORPO (arXiv 2403.07691, Eqs. 6, 7): SFT on the chosen response and the odds ratio of the two, no reference.

L = −mean_t log π(y+_t) − β·log σ( log[odds(y+)/odds(y−)] )
odds(y) = p/(1−p),  log p = mean_t log π(y_t)

β is the paper's λ.
"""

from dataclasses import dataclass

from schemas.fields import number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.1, above=0)  # the weight of the odds ratio


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair."""
    sft = -chosen.mean_logps
    log_odds_ratio = log_odds(chosen.mean_logps) - log_odds(rejected.mean_logps)
    return sft - config.beta * log_sigmoid(log_odds_ratio)


def log_odds(logps: Tensor) -> Tensor:
    """log p − log(1−p) of log p < 0.

    expm1 keeps it exact where p is near 1, and a p of 1 gives a large number, not infinity."""
    import torch  # here: reading the options must not wait for it

    below_1 = logps.clamp_max(-torch.finfo(logps.dtype).eps)
    return logps - (-below_1.expm1()).log()
