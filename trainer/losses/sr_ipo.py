"""Sr-IPO, quality-aware self-refinement on IPO (arXiv 2405.21040, Eq. 15): the target margin shifts by the
policy's own estimate of the pair's quality gap.

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
    scaling: str = choice("printed", "printed", "derived")  # which of the two Δ


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair; (1/(2β))² while policy = reference."""
    scale = config.beta if config.scaling == "printed" else 1.0
    own_gap = sr_dpo.quality_gap(chosen, rejected, config.delta)
    gap = chosen.logratios - rejected.logratios - config.lam * scale * own_gap
    return (gap - 1 / (2 * config.beta)) ** 2
