"""The losses, one file each. A loss file has `loss(chosen, rejected, config) -> (B,)`, a frozen dataclass `Config` of its own recipe keys,
`NEEDS` (columns of `pairs` beside the token ids and their reference log-probs) and `at_start(config)`: what it must be while policy = reference."""

import dataclasses
from types import ModuleType

from schemas.errors import UserError, did_you_mean
from schemas.recipe import Train, fields_of
from trainer.losses import dpo

LOSSES: dict[str, ModuleType] = {"dpo": dpo}


def choose(train: Train) -> tuple[ModuleType, object]:
    """The loss that a recipe names, and its config from [train.<loss>]."""
    if train.loss not in LOSSES:
        raise UserError(f"train.loss = {train.loss}: {did_you_mean(train.loss, LOSSES)}")
    for name in train.options:
        if name not in LOSSES:
            raise UserError(f"[train.{name}]: no loss has this name; {did_you_mean(name, LOSSES)}")
    module = LOSSES[train.loss]
    config = fields_of(module.Config, train.options.get(train.loss, {}), f"[train.{train.loss}]")
    assert dataclasses.is_dataclass(config)
    return module, config
