"""The losses, one file each.

- A loss file has `loss(chosen, rejected, config) -> (B,)` and a frozen dataclass `Config` of its own recipe
  keys, derived from `Options`. A loss that reads more of a pair than token ids and their reference log-probs
  names it in the property `needs` of its Config, by the names in trainer/needs.py.
- The first paragraph of its docstring says what the loss is, the second is its equation. `trainer losses`
  prints both.
- A new loss is a new file and one word in NAMES.
- Only the chosen loss's module is imported, and its top imports no torch: `engine precompute` checks a
  recipe's options and must not wait for torch.
"""

import dataclasses
import inspect
import textwrap
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from schemas.errors import UserError, did_you_mean
from schemas.fields import facts_of
from schemas.recipe import section_of
from schemas.sections import Lora, Train
from trainer.losses import sft
from trainer.losses.options import Options
from trainer.losses.side import Side, Tensor
from trainer.needs import need_of

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


def loss_module(name: str) -> ModuleType:
    """The module of one of NAMES, imported when it is asked for."""
    assert name in NAMES, name
    return import_module(f"trainer.losses.{name}")


@dataclass(frozen=True)
class Objective:
    """What a recipe asks to minimise: a loss with its config, and an SFT term added to it."""

    name: str
    config: Options
    sft: sft.Config

    def __call__(self, chosen: Side, rejected: Side) -> Tensor:
        """(B,) one number a pair."""
        preference: Tensor = loss_module(self.name).loss(chosen, rejected, self.config)
        return preference + sft.term(chosen, self.sft)

    @property
    def needs(self) -> tuple[str, ...]:
        """What it reads of a pair beyond what every loss reads, with these settings."""
        return self.config.needs

    @property
    def beta(self) -> float:
        """The factor from a log-ratio to a reward; 1 for a loss without a β."""
        beta: float = getattr(self.config, "beta", 1.0)
        return beta

    def facts(self) -> dict[str, Any]:
        """What a train folder's fingerprint holds of it."""
        own = facts_of(self.config)
        # rpo's `reduction` was formerly called `sft`, which is what the SFT term's table is called here: one
        # overwrote the other. The default keeps the facts it had; another value is a fact of its own.
        reduction = own.pop("sft", None)
        if reduction != facts_of(type(self.config)()).get("sft"):
            own["reduction"] = reduction
        return {
            "name": self.name,
            **own,
            "sft": facts_of(self.sft),
        }


def choose(train: Train) -> Objective:
    """The objective of [train]: its loss with the keys of [train.<loss>], and the SFT term of [train.sft].

    Raises UserError for an unknown loss, table or key, and for a value that is not allowed."""
    if train.loss not in NAMES:
        raise UserError(f"train.loss = {train.loss}: {did_you_mean(train.loss, NAMES)}")
    tables = (*NAMES, "sft", "lora")
    for table in train.options:
        if table not in tables:
            raise UserError(f"[train.{table}]: no loss has this name; {did_you_mean(table, tables)}")
    kind: type[Options] = loss_module(train.loss).Config
    config = section_of(kind, train.options.get(train.loss, {}), f"[train.{train.loss}]")
    sft_config = section_of(sft.Config, train.options.get("sft", {}), "[train.sft]")
    lora_of(train)
    return Objective(train.loss, config, sft_config)


def lora_of(train: Train) -> Lora | None:
    """The settings of [train.lora]; None where the model's own weights are trained.

    Raises UserError for a key that it does not have, and for a value that is not allowed."""
    if "lora" not in train.options:
        return None
    return section_of(Lora, train.options["lora"], "[train.lora]")


class Description(NamedTuple):
    """A loss as `trainer losses` shows it."""

    what: str
    equation: list[str]  # its lines
    keys: str  # with their defaults
    needs: str  # with these defaults, and which section of a recipe makes it; empty for most


def described(name: str) -> Description:
    """What one of NAMES says about itself."""
    module = loss_module(name)
    what, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    equation, _, _ = rest.partition("\n\n")
    keys = [f"{field.name} = {field.default!r}" for field in dataclasses.fields(module.Config)]
    needs: list[str] = []
    for name_of_need in module.Config().needs:
        need = need_of(name_of_need)
        needs.append(f"{need.what}: {need.remedy}")
    return Description(
        what=" ".join(what.splitlines()),
        equation=textwrap.dedent(equation).splitlines(),
        keys=", ".join(keys),
        needs="; ".join(needs),
    )
