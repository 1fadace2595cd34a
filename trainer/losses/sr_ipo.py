"""Sr-IPO, quality-aware self-refinement on IPO (arXiv 2405.21040, Eq. 15): the finite margin aimed at moves by what the policy thinks of the pair.

    L = ( h − λ·sg[Δ] − 1/(2β) )²,   h = logratio of chosen − logratio of rejected
    Δ = β·{ log[π/ref](y+ | p⊕x) − log[π/ref](y− | p⊕x) }   scaling = "printed"
    Δ =     log[π/ref](y+ | p⊕x) − log[π/ref](y− | p⊕x)     scaling = "derived"

As printed (Eq. 15) Δ carries β, in its derivation (Eq. 14) it does not. Sums over tokens, no length normalisation. Δ and `delta` as in sr_dpo.
"""

from dataclasses import dataclass

import torch

from trainer.losses.limits import above_zero, one_of, within
from trainer.losses.side import Side
from trainer.losses.sr_dpo import refinement

NEEDS: tuple[str, ...] = ()  # with delta = "live" the quality context: see Config.needs


@dataclass(frozen=True)
class Config:
    beta: float = 0.1
    lam: float = 0.3  # λ; 0 is IPO by sum
    delta: str = "live"  # live, or naive: on the prompt itself
    scaling: str = "printed"  # or derived

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        within(0, float("inf"), lam=self.lam)
        one_of("live", "naive", delta=self.delta)
        one_of("printed", "derived", scaling=self.scaling)

    @property
    def needs(self) -> tuple[str, ...]:
        return ("quality",) if self.delta == "live" else ()


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair; (1/(2β))² while policy = reference."""
    scale = config.beta if config.scaling == "printed" else 1.0
    gap = (
        chosen.logratios
        - rejected.logratios
        - config.lam * scale * refinement(chosen, rejected, config.delta)
    )
    return (gap - 1 / (2 * config.beta)) ** 2
