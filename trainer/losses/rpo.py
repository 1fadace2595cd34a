"""RPO, regularised preference optimisation (arXiv 2405.16436, Eq. 4.8): DPO, and the chosen response held up by its own likelihood.

    L = −log σ(m) + η·β·( −log π(y0|x) )        sft = "sum": the paper's; the log-prob is summed over tokens, the weight is ηβ
    L = −log σ(m) + η·( −mean_t log π(y0_t) )   sft = "mean": what the authors' README prefers for reasoning (η 0.2, β 0.5)
    y0: the chosen response, as in the paper's experiments; or by y0 = "baseline" the pair's baseline response (pairs.baseline), as in its theory

A baseline response (a sample of the initial model, say) runs with the pair, under the one prompt.
Not the reward-aware nor the iterative "RPO". What it is for: logps/chosen falls less than under DPO.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.losses.limits import above_zero, one_of, within
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()  # with y0 = "baseline" that: see Config.needs


@dataclass(frozen=True)
class Config:
    beta: float = 0.05
    eta: float = 0.005
    sft: str = "sum"  # sum or mean over y0's tokens
    y0: str = "chosen"  # or baseline

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        within(0, float("inf"), eta=self.eta)
        one_of("sum", "mean", sft=self.sft)
        one_of("chosen", "baseline", y0=self.y0)

    @property
    def needs(self) -> tuple[str, ...]:
        return ("baseline",) if self.y0 == "baseline" else ()


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair; log 2 + the SFT term while policy = reference."""
    preference = -F.logsigmoid(config.beta * (chosen.logratios - rejected.logratios))
    held = chosen.baseline if config.y0 == "baseline" else chosen
    assert held is not None, "the objective's needs name the baseline"
    sft = -config.eta * config.beta * held.logps if config.sft == "sum" else -config.eta * held.mean_logps
    return preference + sft
