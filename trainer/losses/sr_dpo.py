"""Sr-DPO, quality-aware self-refinement (arXiv 2405.21040, Eqs. 12 and 13): DPO whose margin must exceed the
policy's own estimate of the pair's quality gap.

L = −log σ( m − λ·sg[Δ] ),   m = β·(logratio of chosen − logratio of rejected)
Δ = β·{ log[π/ref](y+ | p⊕x) − log[π/ref](y− | p⊕x) }

p⊕x is the prompt under the quality prompt p (the recipe's logprobs.quality_prompt). π in Δ is the policy as
it is now, so Δ costs one more forward pass without gradient at each step. Δ is 0 while policy = reference.
`delta = "naive"` is the ablation: Δ is taken on x itself, which costs nothing. The paper uses β 0.1 and
λ 0.1, 0.3, 0.5 and 1. A cached quality margin is another method: score_margin.
"""

from dataclasses import dataclass

from schemas.fields import choice, number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.1, above=0)  # how closely the policy is held to the reference
    lam: float = number(0.3, low=0)  # λ, the weight of the policy's own estimate; 0 is DPO
    delta: str = choice("live", "live", "naive")  # naive: on the prompt itself

    @property
    def needs(self) -> tuple[str, ...]:
        if self.delta == "live":
            return ("quality",)
        return ()


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair; log 2 while policy = reference."""
    margin = config.beta * (chosen.logratios - rejected.logratios)
    own_gap = quality_gap(chosen, rejected, config.delta)
    return -log_sigmoid(margin - config.lam * config.beta * own_gap)


def quality_gap(chosen: Side, rejected: Side, delta: str) -> Tensor:
    """(B,) Δ/β, in nat; no gradient passes through it."""
    if delta == "naive":
        return (chosen.logratios - rejected.logratios).detach()
    assert chosen.quality is not None and rejected.quality is not None, "the options' needs name quality"
    return (chosen.quality.logratios - rejected.quality.logratios).detach()
