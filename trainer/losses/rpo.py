"""RPO, regularised preference optimisation (arXiv 2405.16436, Eq. 4.8): DPO, and the chosen response held up by its own likelihood.

    L = −log σ(m) + η·β·( −log π(y+|x) )        sft = "sum": the paper's; the log-prob is summed over tokens, the weight is ηβ
    L = −log σ(m) + η·( −mean_t log π(y+_t) )   sft = "mean": what the authors' README prefers for reasoning (η 0.2, β 0.5)

Not the reward-aware nor the iterative "RPO". What it is for: logps/chosen falls less than under DPO.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.losses.limits import above_zero, one_of, within
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    beta: float = 0.05
    eta: float = 0.005
    sft: str = "sum"  # sum or mean over the chosen response's tokens

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        within(0, float("inf"), eta=self.eta)
        one_of("sum", "mean", sft=self.sft)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair; log 2 + the SFT term while policy = reference."""
    preference = -F.logsigmoid(config.beta * (chosen.logratios - rejected.logratios))
    sft = -config.eta * config.beta * chosen.logps if config.sft == "sum" else -config.eta * chosen.mean_logps
    return preference + sft
