"""DPO with an offset from cached scores (ODPO, arXiv 2402.10571): the better rated the chosen response, the larger the margin asked for.

    L = −log σ( m − α·(s(y+) − s(y−)) ),   m = β·(logratio of chosen − logratio of rejected)

ODPO's own offset is a function of the gap, here the gap itself. `scorer` says whose scores: prompt_gain (how much the quality prompt raises the response's likelihood, nat), rating (the model's mean mark), or any
other in the table scores (pairwise, given, check); of a response rated several times or in several comparisons it is the mean. Not Sr-DPO: these scores stand still while the policy learns.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.losses.limits import above_zero, within
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()  # the scorer's scores: see Config.needs


@dataclass(frozen=True)
class Config:
    beta: float = 0.1
    alpha: float = 0.1  # a score's worth of margin; 0 is DPO
    scorer: str = "prompt_gain"  # or rating, pairwise, given, check

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        within(0, float("inf"), alpha=self.alpha)

    @property
    def needs(self) -> tuple[str, ...]:
        return (f"score.{self.scorer}",)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    offset = config.alpha * (chosen.scores[config.scorer] - rejected.scores[config.scorer])
    return -F.logsigmoid(config.beta * (chosen.logratios - rejected.logratios) - offset)
