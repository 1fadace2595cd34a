"""Sr-DPO, quality-aware self-refinement (arXiv 2405.21040, Eqs. 12 and 13): DPO whose margin must exceed what the policy itself thinks of the pair.

    L = −log σ( m − λ·sg[Δ] ),   m = β·(logratio of chosen − logratio of rejected)
    Δ = β·{ log[π/ref](y+ | p⊕x) − log[π/ref](y− | p⊕x) }

p⊕x is the prompt under the quality prompt p (the recipe's logprobs.quality_prompt). π in Δ is the policy as it is now, so Δ is one more forward
without gradient at each step; it is 0 while policy = reference. `delta = "naive"` is the ablation: Δ taken on x itself, which costs nothing.
The paper: β 0.1, λ from 0.1, 0.3, 0.5, 1. A cached quality margin is another method: score_margin.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.losses.limits import above_zero, one_of, within
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ()  # with delta = "live" the quality context: see Config.needs


@dataclass(frozen=True)
class Config:
    beta: float = 0.1
    lam: float = 0.3  # λ, how much of the policy's own opinion counts; 0 is DPO
    delta: str = "live"  # live, or naive: on the prompt itself

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        within(0, float("inf"), lam=self.lam)
        one_of("live", "naive", delta=self.delta)

    @property
    def needs(self) -> tuple[str, ...]:
        return ("quality",) if self.delta == "live" else ()


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair; log 2 while policy = reference."""
    margin = config.beta * (chosen.logratios - rejected.logratios)
    return -F.logsigmoid(margin - config.lam * config.beta * refinement(chosen, rejected, config.delta))


def refinement(chosen: Side, rejected: Side, delta: str) -> torch.Tensor:
    """(B,) Δ/β, in nat; no gradient passes through it."""
    if delta == "naive":
        return (chosen.logratios - rejected.logratios).detach()
    assert chosen.quality is not None and rejected.quality is not None, (
        "the objective's needs name the quality context"
    )
    return (chosen.quality.logratios - rejected.quality.logratios).detach()
