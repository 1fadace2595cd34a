"""BMC's weighted DPO (arXiv 2408.07471, methods §5): the tokens in which the two responses differ weigh more, the less sure the policy is of them.

    L = −log σ( β·Σ_t λ(y+_t)·log[π/ref](y+_t) − β·Σ_t λ(y-_t)·log[π/ref](y-_t) )
    λ(token) = 1 + min( sg[1/π(token)], δ )   if the token is in the diff of the two responses,   else 1

For δ ≥ 1 a changed token weighs between 2 and 1+δ. `weighting = "code"` is the official code's: Σ λ·log π − Σ λ_ref·log ref, each log-prob
weighted by its own model's confidence. The paper's δ/β: question answering 3.0/0.05, mathematics 2.5/0.05, instruction following 1.5 to 2.0/0.01.
On pairs that were not rewritten this is DPO-MC; DPO on rewritten ones is DPO-BC.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from trainer.losses.limits import above_zero, one_of, within
from trainer.losses.side import Side

NEEDS: tuple[str, ...] = ("edit_mask",)


@dataclass(frozen=True)
class Config:
    beta: float = 0.05
    delta: float = 2.5  # the most that an unsure token gains
    weighting: str = "paper"  # or code

    def __post_init__(self) -> None:
        above_zero(beta=self.beta)
        within(0, float("inf"), delta=self.delta)
        one_of("paper", "code", weighting=self.weighting)


def loss(chosen: Side, rejected: Side, config: Config) -> torch.Tensor:
    """(B,) one number a pair."""
    return -F.logsigmoid(
        config.beta
        * (
            weighted(chosen, config.delta, config.weighting)
            - weighted(rejected, config.delta, config.weighting)
        )
    )


def weighted(side: Side, delta: float, weighting: str) -> torch.Tensor:
    """(B,) the weighted log-ratio of a side."""
    assert side.edit_mask is not None, "the objective's NEEDS name the edit masks"
    own = _weights(side.token_logps, side.edit_mask, delta)
    if weighting == "paper":
        return (own * side.token_logratios).sum(-1)
    return (
        own * side.token_logps - _weights(side.ref_token_logps, side.edit_mask, delta) * side.ref_token_logps
    ).sum(-1)


def _weights(token_logps: torch.Tensor, edit_mask: torch.Tensor, delta: float) -> torch.Tensor:
    """(B, T) λ. The exponent is bounded before it is taken: 1/π of a token that is all but impossible is beyond float32."""
    bound = torch.log(torch.tensor(max(delta, 1e-30), dtype=token_logps.dtype, device=token_logps.device))
    unsure = (
        torch.exp(torch.minimum(-token_logps.detach(), bound)) if delta > 0 else torch.zeros_like(token_logps)
    )
    return 1 + edit_mask * unsure
