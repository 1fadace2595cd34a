"""An SFT term beside any loss: the chosen response's own likelihood, which preference losses let fall.

+ weight·( −log π(y+|x) )        reduction = "sum": over the response's tokens
+ weight·( −mean_t log π(y+_t) ) reduction = "mean"
"""

from dataclasses import dataclass

from schemas.fields import choice, number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor


@dataclass(frozen=True)
class Config(Options):
    weight: float = number(0.0, low=0)  # of the term; 0: there is none
    # Of the chosen response's log-prob over its tokens.
    reduction: str = choice("mean", "sum", "mean", formerly="kind")


def term(chosen: Side, config: Config) -> Tensor | float:
    """(B,), or 0 where the weight is 0."""
    if config.weight == 0:
        return 0.0
    logps = chosen.mean_logps
    if config.reduction == "sum":
        logps = chosen.logps
    return -config.weight * logps
