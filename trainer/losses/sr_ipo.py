"""Sr-IPO, quality-aware self-refinement on IPO (arXiv 2405.21040, Eq. 15): the finite margin aimed at moves
by what the policy thinks of the pair.

L = ( h − λ·sg[Δ] − 1/(2β) )²,   h = logratio of chosen − logratio of rejected
Δ = β·{ log[π/ref](y+ | p⊕x) − log[π/ref](y− | p⊕x) }   scaling = "printed"
Δ =     log[π/ref](y+ | p⊕x) − log[π/ref](y− | p⊕x)     scaling = "derived"

Δ carries β in Eq. 15 as printed, but not in its derivation (Eq. 14). Log-probs are summed over tokens,
without length normalisation. Δ, `lam` and `delta` are those of sr_dpo; λ = 0 is IPO by sum.
"""

from dataclasses import dataclass

from schemas.fields import choice
from trainer.losses import sr_dpo
from trainer.losses.side import Side, Tensor


@dataclass(frozen=True)
class Config(sr_dpo.Config):
    scaling: str = choice("printed", "printed", "derived")


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair; (1/(2β))² while policy = reference."""
    scale = config.beta if config.scaling == "printed" else 1.0
    opinion = sr_dpo.refinement(chosen, rejected, config.delta)
    gap = chosen.logratios - rejected.logratios - config.lam * scale * opinion
    return (gap - 1 / (2 * config.beta)) ** 2
