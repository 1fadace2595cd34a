"""RPO, regularised preference optimisation (arXiv 2405.16436, Eq. 4.8): DPO with a term for the likelihood of
the chosen response.

L = −log σ(m) + η·β·( −log π(y0|x) )        reduction = "sum": the paper's; the log-prob is summed over
                                            tokens, the weight is ηβ
L = −log σ(m) + η·( −mean_t log π(y0_t) )   reduction = "mean": what the authors' README prefers for
                                            reasoning (η 0.2, β 0.5)
y0: the chosen response, as in the paper's experiments; or by y0 = "baseline" the pair's baseline
response (pairs.baseline), as in its theory

m is DPO's margin, β·(logratio of chosen − logratio of rejected). A baseline response (a sample of the initial
model, say) runs with the pair, under the one prompt. This is neither the reward-aware nor the iterative
"RPO". Its purpose: logps/chosen falls less than under DPO.
"""

from dataclasses import dataclass

from schemas.fields import choice, number
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor, log_sigmoid


@dataclass(frozen=True)
class Config(Options):
    beta: float = number(0.05, above=0)  # how closely the policy is held to the reference
    eta: float = number(0.005, low=0)  # η, the weight of y0's likelihood; 0 is DPO
    reduction: str = choice("sum", "sum", "mean", formerly="sft")  # of y0's log-prob over its tokens
    y0: str = choice("chosen", "chosen", "baseline")  # whose likelihood is held

    @property
    def needs(self) -> tuple[str, ...]:
        if self.y0 == "baseline":
            return ("baseline",)
        return ()


def loss(chosen: Side, rejected: Side, config: Config) -> Tensor:
    """(B,) one number a pair; log 2 + the SFT term while policy = reference."""
    margin = config.beta * (chosen.logratios - rejected.logratios)
    preference = -log_sigmoid(margin)
    y0 = chosen
    if config.y0 == "baseline":
        assert chosen.baseline is not None, "the options' needs name the baseline"
        y0 = chosen.baseline
    if config.reduction == "sum":
        return preference - config.eta * config.beta * y0.logps
    return preference - config.eta * y0.mean_logps
