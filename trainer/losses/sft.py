"""An SFT term beside any loss: the chosen response's own likelihood, which preference losses let fall.

+ weight·( −log π(y+|x) )        kind = "sum": over the response's tokens
+ weight·( −mean_t log π(y+_t) ) kind = "mean"
"""

from dataclasses import dataclass

import torch

from trainer.losses.limits import one_of, within
from trainer.losses.side import Side


@dataclass(frozen=True)
class Config:
    weight: float = 0.0
    kind: str = "mean"

    def __post_init__(self) -> None:
        within(0, float("inf"), weight=self.weight)
        one_of("sum", "mean", kind=self.kind)


def term(chosen: Side, config: Config) -> torch.Tensor | float:
    """(B,), or 0 where the weight is 0."""
    if config.weight == 0:
        return 0.0
    return -config.weight * (chosen.logps if config.kind == "sum" else chosen.mean_logps)
