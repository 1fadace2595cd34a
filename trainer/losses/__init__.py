"""The losses, one file each. A loss file has `loss(chosen, rejected, config) -> (B,)`, a frozen dataclass `Config` of its own recipe keys, and
`NEEDS`: the columns of `pairs` it takes beside token ids and their reference log-probs. A new loss is a new file and one word in the tuple."""

import dataclasses
from dataclasses import dataclass
from types import ModuleType

import torch

from schemas.errors import UserError, did_you_mean
from schemas.recipe import fields_of
from schemas.sections import Train
from trainer.losses import bmc, dpo, dpop, hinge, ipo, ipo_bmc, ld_dpo, length_normalised_dpo, orpo, r_dpo, robust_dpo, rpo, sft, simpo, wpo
from trainer.losses.side import Side

_FILES = (dpo, robust_dpo, ipo, rpo, bmc, ipo_bmc, simpo, orpo, hinge, length_normalised_dpo, dpop, r_dpo, ld_dpo, wpo)
LOSSES: dict[str, ModuleType] = {module.__name__.rpartition(".")[2]: module for module in _FILES}


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
        """Columns of `pairs` that it takes beside what every loss takes."""
        return LOSSES[self.name].NEEDS

    @property
    def beta(self) -> float:
        """What makes a log-ratio a reward."""
        return getattr(self.config, "beta", 1.0)

    def facts(self) -> dict:
        assert dataclasses.is_dataclass(self.config) and not isinstance(self.config, type)
        return {"name": self.name, **dataclasses.asdict(self.config), "sft": dataclasses.asdict(self.sft)}


def choose(train: Train) -> Objective:
    """The objective of [train]: `loss` by its name, its keys from [train.<loss>], an SFT term from [train.sft]."""
    if train.loss not in LOSSES:
        raise UserError(f"train.loss = {train.loss}: {did_you_mean(train.loss, LOSSES)}")
    for name in train.options:
        if name not in (*LOSSES, "sft"):
            raise UserError(f"[train.{name}]: no loss has this name; {did_you_mean(name, [*LOSSES, 'sft'])}")
    config = fields_of(LOSSES[train.loss].Config, train.options.get(train.loss, {}), f"[train.{train.loss}]")
    return Objective(train.loss, config, fields_of(sft.Config, train.options.get("sft", {}), "[train.sft]"))


def described(name: str) -> tuple[str, list[str], str]:
    """(what it is, its equation's lines, its keys with their defaults) for `trainer losses`."""
    module = LOSSES[name]
    first, _, rest = (module.__doc__ or "").partition("\n")
    equation = [line.strip() for line in rest.splitlines() if line.startswith("    ")]
    keys = ", ".join(f"{field.name} = {field.default!r}" for field in dataclasses.fields(module.Config))
    return first, equation, keys
