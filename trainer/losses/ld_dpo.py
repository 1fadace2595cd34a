"""LD-DPO, length-desensitised DPO (arXiv 2409.06411): the longer response's tokens beyond the shorter one's
length are weighted by α.

L = −log σ( β·[ Σ_t w(t)·logratio(y+_t) − Σ_t w(t)·logratio(y−_t) ] )
w(t) = 1 for t ≤ min(|y+|, |y−|), else α

α = 1 is DPO; α = 0 ignores the excess.
"""

from dataclasses import dataclass

from schemas.fields import number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.1, above=0)  # how closely the policy is held to the reference
    alpha: float = number(0.5, low=0, high=1)  # α, the weight of the longer response's excess


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair; log 2 while policy = reference."""
    shared = chosen.lengths.minimum(rejected.lengths)
    chosen_logratios = _weighted_logratios(chosen, shared, config.alpha)
    rejected_logratios = _weighted_logratios(rejected, shared, config.alpha)
    return -log_sigmoid(config.beta * (chosen_logratios - rejected_logratios))


def _weighted_logratios(side: Side, shared: Tensor, alpha: float) -> Tensor:
    """(B,) a side's log-ratios, its tokens beyond the first `shared`, (B,), weighted by alpha."""
    import torch  # here: reading the options must not wait for it

    place = torch.arange(side.mask.shape[1], device=side.mask.device)
    weights = torch.where(place < shared[:, None], 1.0, alpha)
    return (weights * side.token_logratios).sum(-1)
