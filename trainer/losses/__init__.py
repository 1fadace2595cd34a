"""The losses, one file each. A loss file has `loss(chosen, rejected, config) -> (B,)`, a frozen dataclass `Config` of its own recipe keys, and
`NEEDS`: what it takes of a pair beside token ids and their reference log-probs, by the names of trainer/data.py's WANTED; where that hangs on a
setting, the Config has a property `needs` besides. A new loss is a new file and one word in the tuple."""

import dataclasses
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import torch

from schemas.errors import UserError, did_you_mean
from schemas.recipe import fields_of
from schemas.sections import Train
from trainer.data import wanted
from trainer.losses import sft
from trainer.losses.side import Side

NAMES = (
    "dpo",
    "robust_dpo",
    "ipo",
    "sr_dpo",
    "sr_ipo",
    "rpo",
    "bmc",
    "ipo_bmc",
    "score_margin",
    "simpo",
    "orpo",
    "hinge",
    "length_normalised_dpo",
    "dpop",
    "r_dpo",
    "ld_dpo",
    "wpo",
)

LOSSES: dict[str, ModuleType] = {name: import_module(f"trainer.losses.{name}") for name in NAMES}


@dataclass(frozen=True)
class Objective:
    """What a recipe asks to be minimised: a loss with its config, and an SFT term beside it."""

    name: str
    config: object
    sft: sft.Config

    def __call__(self, chosen: Side, rejected: Side) -> torch.Tensor:
        """(B,) one number a pair."""
        return LOSSES[self.name].loss(chosen, rejected, self.config) + sft.term(chosen, self.sft)

    @property
    def needs(self) -> tuple[str, ...]:
        """What it takes of a pair beside what every loss takes, with these settings."""
        return needs_of(LOSSES[self.name], self.config)

    @property
    def beta(self) -> float:
        """What makes a log-ratio a reward."""
        return getattr(self.config, "beta", 1.0)

    def facts(self) -> dict:
        assert dataclasses.is_dataclass(self.config) and not isinstance(self.config, type)
        return {"name": self.name, **dataclasses.asdict(self.config), "sft": dataclasses.asdict(self.sft)}


def needs_of(module: ModuleType, config: object) -> tuple[str, ...]:
    return (*module.NEEDS, *getattr(config, "needs", ()))


def choose(train: Train) -> Objective:
    """The objective of [train]: `loss` by its name, its keys from [train.<loss>], an SFT term from [train.sft]."""
    if train.loss not in LOSSES:
        raise UserError(f"train.loss = {train.loss}: {did_you_mean(train.loss, LOSSES)}")
    for name in train.options:
        if name not in (*LOSSES, "sft"):
            raise UserError(f"[train.{name}]: no loss has this name; {did_you_mean(name, [*LOSSES, 'sft'])}")
    config = fields_of(LOSSES[train.loss].Config, train.options.get(train.loss, {}), f"[train.{train.loss}]")
    return Objective(train.loss, config, fields_of(sft.Config, train.options.get("sft", {}), "[train.sft]"))


def described(name: str) -> tuple[str, list[str], str, str]:
    """(what it is, its equation's lines, its keys with their defaults, what it needs with these and which section makes that) for `trainer losses`."""
    module = LOSSES[name]
    first, _, rest = (module.__doc__ or "").partition("\n")
    equation = [line.strip() for line in rest.splitlines() if line.startswith("    ")]
    keys = ", ".join(f"{field.name} = {field.default!r}" for field in dataclasses.fields(module.Config))
    needs = "; ".join(
        f"{what}: {remedy}" for what, _, remedy in map(wanted, needs_of(module, module.Config()))
    )
    return first, equation, keys, needs
