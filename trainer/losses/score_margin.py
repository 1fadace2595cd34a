"""DPO with an offset from cached scores (ODPO, arXiv 2402.10571): the required margin grows with the gap
between the scores.

L = −log σ( m − α·(s(y+) − s(y−)) ),   m = β·(logratio of chosen − logratio of rejected)

ODPO's own offset is a function of the gap between the scores; here it is the gap itself. `scorer` says whose
scores: prompt_gain (how much the quality prompt raises the response's likelihood, nat), rating (the model's
mean mark), or any other in the table scores (pairwise, given, check). Several scores of one response, by
several ratings or comparisons, are averaged. Not Sr-DPO: these scores stay fixed while the policy learns.
"""

from dataclasses import dataclass

from schemas import scorers
from schemas.fields import number, setting
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.1, above=0)  # how closely the policy is held to the reference
    alpha: float = number(0.1, low=0)  # the margin that one unit of score is worth; 0 is DPO
    scorer: str = setting("prompt_gain", scorers.unknown)  # or any other of schemas/scorers.py

    @property
    def needs(self) -> tuple[str, ...]:
        return (f"score.{self.scorer}",)


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair."""
    margin = config.beta * (chosen.logratios - rejected.logratios)
    offset = config.alpha * (chosen.scores[config.scorer] - rejected.scores[config.scorer])
    return -log_sigmoid(margin - offset)
