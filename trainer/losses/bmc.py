"""BMC's weighted DPO (arXiv 2408.07471): the tokens in which the two responses differ weigh more, up to
1+δ where the policy is unsure of them.

L = −log σ( β·Σ_t λ(y+_t)·log[π/ref](y+_t) − β·Σ_t λ(y-_t)·log[π/ref](y-_t) )
λ(token) = 1 + min( sg[1/π(token)], δ )   if the token is in the diff of the two responses,   else 1

For δ ≥ 1 a changed token weighs between 2 and 1+δ. `weighting = "code"` is the official code's:
Σ λ·log π − Σ λ_ref·log ref, where each log-prob is weighted by its own model's confidence. The paper's δ/β:
question answering 3.0/0.05, mathematics 2.5/0.05, instruction following 1.5 to 2.0/0.01. On pairs that were
not rewritten this is DPO-MC; DPO on rewritten ones is DPO-BC.
"""

from dataclasses import dataclass

from schemas.fields import choice, number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid

_LEAST_DELTA = 1e-30  # the logarithm of a smaller δ is not finite in float32


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.05, above=0)  # how closely the policy is held to the reference
    # δ, the most that an unsure token gains; inf for no cap.
    delta: float = number(2.5, low=0, infinite=True)
    weighting: str = choice("paper", "paper", "code")  # as the paper has it, or the official code

    @property
    def needs(self) -> tuple[str, ...]:
        return ("edit_mask",)


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair; log 2 while policy = reference."""
    chosen_logratios = weighted_logratios(chosen, config)
    rejected_logratios = weighted_logratios(rejected, config)
    return -log_sigmoid(config.beta * (chosen_logratios - rejected_logratios))


def weighted_logratios(side: Side, config: Config) -> Tensor:
    """(B,) Σ_t λ·log[π/ref] of a side."""
    assert side.edit_mask is not None, "the options' needs name the edit masks"
    weights = _weights(side.token_logps, side.edit_mask, config.delta)
    if config.weighting == "paper":
        return (weights * side.token_logratios).sum(-1)
    ref_weights = _weights(side.ref_token_logps, side.edit_mask, config.delta)
    weighted = weights * side.token_logps - ref_weights * side.ref_token_logps
    return weighted.sum(-1)


def _weights(token_logps: Tensor, edit_mask: Tensor, delta: float) -> Tensor:
    """(B, T) λ, without gradient."""
    if delta == 0:
        return token_logps.new_ones(token_logps.shape)
    # The exponent is bounded before it is taken: 1/π of a nearly impossible token is beyond float32.
    bound = token_logps.new_tensor(max(delta, _LEAST_DELTA)).log()
    unsure = (-token_logps.detach()).minimum(bound).exp()
    return 1 + edit_mask * unsure
