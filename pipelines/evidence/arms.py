"""What is compared: an arm is a way to train, on a variant of the pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

LEARNING_RATES = (3e-5, 1e-4, 3e-4)
BETAS = (0.1, 0.3, 1.0)
FIRST_BETA = 0.3  # that the learning rate is chosen at


@dataclass(frozen=True)
class Method:
    """A loss with its settings but learning rate and β. `settings`: of the recipe, such as rpo.eta=0.005.

    `beta`: the key of β, where it has one that is searched; `variant`: of the pairs it is searched on."""

    name: str
    loss: str
    settings: tuple[str, ...] = ()
    variant: str = "independent"
    has_beta: bool = True

    def train_settings(self, learning_rate: float, beta: float) -> list[str]:
        """The settings of a training."""
        settings = [f"train.loss={self.loss}", f"train.learning_rate={learning_rate:g}"]
        if self.has_beta:
            settings.append(f"train.{self.loss}.beta={beta:g}")
        settings += [f"train.{setting}" for setting in self.settings]
        return settings

    def cells(self, rates: Sequence[float], betas: Sequence[float]) -> list["Arm"]:
        """Arms of the search: every one of these learning rates with every one of these β."""
        return [Arm(self.name, self, rate, beta, self.variant) for rate in rates for beta in betas]


@dataclass(frozen=True)
class Arm:
    """A method at a learning rate and a β, trained on a variant of the pairs with every seed.

    `checkpoints`: steps between those that are measured too; 0: the last one alone."""

    name: str
    method: Method
    learning_rate: float
    beta: float
    variant: str
    more: tuple[str, ...] = ()  # settings over the method's
    checkpoints: int = 0

    def settings(self) -> list[str]:
        """All settings of its training."""
        settings = self.method.train_settings(self.learning_rate, self.beta)
        settings += [f"train.{setting}" for setting in self.more]
        if self.checkpoints:
            settings += [
                f"train.save_every={self.checkpoints}",
                f"train.eval_every={self.checkpoints}",
                "train.keep=0",
            ]
        return settings


# SFT on the chosen responses is RPO whose preference weighs nothing.
SFT = Method("SFT", "rpo", ("rpo.beta=1e-6", "rpo.eta=1", "rpo.reduction=mean"), has_beta=False)
DPO = Method("DPO", "dpo")
IPO = Method("IPO", "ipo", ("ipo.reduction=sum",))
SR_DPO = Method("Sr-DPO", "sr_dpo", ("sr_dpo.lam=0.3",))
SR_IPO = Method("Sr-IPO", "sr_ipo", ("sr_ipo.lam=0.3",))
SCORE_MARGIN = Method("score margin", "score_margin", ("score_margin.scorer=prompt_gain",))


def on(method: Method, variant: str, name: str = "") -> Method:
    """The same method, searched on another variant of the pairs."""
    return Method(name or method.name, method.loss, method.settings, variant, method.has_beta)


@dataclass(frozen=True)
class Tuned:
    """What the search chose for a method: the learning rate and the β of the best reward."""

    method: Method
    learning_rate: float
    beta: float

    def arm(self, name: str = "", variant: str = "", more: Sequence[str] = (), **changed: float) -> Arm:
        """An arm with what was chosen, or with `changed` learning_rate or beta."""
        values = {"learning_rate": self.learning_rate, "beta": self.beta} | changed
        return Arm(
            name=name or self.method.name,
            method=self.method,
            variant=variant or self.method.variant,
            more=tuple(more),
            learning_rate=values["learning_rate"],
            beta=values["beta"],
        )
