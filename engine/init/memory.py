"""How a model can be trained in the memory that is free here: whole, by an adapter, or by one on 4 bits.

Bytes of a weight that is trained: 4 for it, 4 for its gradient, and 4 for each moment of the optimizer (AdamW
two, RMSprop one; a little more than 1 in 8 bits). With train.weights = "bfloat16" it and its gradient take 2.
A frozen weight under an adapter takes what the dtype of the forward pass takes. In 4 bits the matrices of the
layers take a little more than a half; embeddings, head and norms stay in the dtype of the forward pass.
The rest is for the passes. `trainer plan` counts exactly, once there are pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.init.model_look import ModelLook
from schemas.devices import bfloat16_is_there
from schemas.dtypes import AUTO, of_training
from schemas.errors import UserError
from schemas.quantization import NONE
from schemas.room import free_memory, free_of_gpus
from schemas.sections import Lora

_SHARE = 0.7  # of the memory that weights, gradients and optimizer may take
_IN_8_BITS = 1 + 4 / 256  # bytes of a moment: a float32 scale for 256
_MOMENTS = {"adamw": 8.0, "adamw_8bit": 2 * _IN_8_BITS, "rmsprop": 4.0}  # bytes of a weight's, in all
# Bytes of a weight in nf4 with double quantisation: 64 share a scale of 8 bits, 256 scales one of float32.
_FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_GIB = 1 << 30

WHOLE, ADAPTER, ADAPTER_ON_FOUR_BITS = "whole", "adapter", "adapter on 4 bits"


@dataclass(frozen=True)
class Machine:
    """What is free: of each GPU, or of the machine's memory where there is none. 0: not known.

    `bfloat16`: all GPUs compute in it, so that dtype = "auto" is bfloat16."""

    free: int
    gpus: int
    bfloat16: bool = False

    @property
    def in_words(self) -> str:
        """As a clause."""
        if not self.gpus:
            return f"this machine has {_size(self.free)} of memory free"
        each = "the GPU has" if self.gpus == 1 else f"each of {self.gpus} GPUs has"
        return f"{each} {_size(self.free)} free"


@dataclass(frozen=True)
class Asked:
    """What the method's recipe and the user's settings say of memory, by the names that a recipe has.

    `dtype`: of the forward pass in training; `quantization`: empty where the user leaves it open; `r`: the
    adapter's rank; `adapter`: the user has set a key of [train.lora]; `may_split`: ranks may share weights.
    """

    optimizer: str = "adamw"
    weights: str = "float32"
    dtype: str = "float32"
    quantization: str = ""
    r: int = Lora().r
    adapter: bool = False
    may_split: bool = True

    @property
    def each(self) -> float:
        """Bytes of a weight that is trained, with its gradient and moments."""
        return 2 * _BYTES[self.weights] + _MOMENTS[self.optimizer]


@dataclass(frozen=True)
class Fit:
    """How to train, and why, in lines. `fits`: false where even the smallest way takes more than there is.

    `ranks`: processes of torchrun that it takes, one a GPU, to hold the weights together; 1: no torchrun."""

    way: str
    why: tuple[str, ...]
    fits: bool = True
    ranks: int = 1


def this_machine(device: str = AUTO) -> Machine:
    """What is free here now; `device`: as in model.device."""
    gpus = [] if device == "cpu" else free_of_gpus()
    if not gpus:
        return Machine(free_memory() or 0, 0)
    _, _, index = device.partition(":")
    if index.isdigit() and int(index) < len(gpus):
        gpus = [gpus[int(index)]]
    return Machine(min(gpus), len(gpus), bfloat16_is_there(device))


def asked_of(settings: Mapping[str, Any], optimizer: str, machine: Machine) -> Asked:
    """What is asked for. `settings`: the user's, by dotted names; `optimizer`: of the method's recipe.

    A value that no recipe may have is left to the recipe's own check, and counted as the default. Raises
    UserError for weights that the optimizer does not train."""

    def known(name: str, values: Mapping[str, Any], usual: str) -> str:
        value = settings.get(name, usual)
        return value if isinstance(value, str) and value in values else usual

    by_machine = "bfloat16" if machine.bfloat16 else "float32"
    of_model = known("model.dtype", _BYTES, by_machine)
    r = settings.get("train.lora.r", Lora().r)
    optimizer = known("train.optimizer", _MOMENTS, optimizer)
    weights = known("train.weights", _BYTES, "float32")
    if (weights, optimizer) == ("bfloat16", "rmsprop"):
        raise UserError(
            'train.weights = "bfloat16" goes with the optimizers adamw and adamw_8bit, and the recipe would '
            "have rmsprop: add --set train.optimizer=adamw"
        )
    return Asked(
        optimizer=optimizer,
        weights=weights,
        dtype=of_training(known("train.dtype", _BYTES, AUTO), of_model),
        quantization=str(settings.get("model.quantization", "")),
        r=r if isinstance(r, int) else Lora().r,
        adapter=any(name.startswith("train.lora.") for name in settings),
        may_split=settings.get("train.parallel") != "ddp",
    )


def fit(model: ModelLook, asked: Asked, machine: Machine) -> Fit:
    """The way that fits: the whole model if it can be, else as little changed as possible.

    Only ways that the user's settings leave open are tried."""
    if model.is_adapter:
        return Fit(WHOLE, ("The model is an adapter: trainer merge makes one model of it, to train.",))
    ways = _open_ways(asked)
    if model.path is None or not machine.free:
        return Fit(ways[0], ("How much memory it takes here is not known: trainer plan says it.",))
    room = int(_SHARE * machine.free)
    lead = _lead(ways[0], model, asked, machine)
    for way in ways:
        taken = _taken(way, model, asked)
        is_split = way == WHOLE and machine.gpus > 1 and asked.may_split
        if room < taken <= room * machine.gpus and is_split:
            why = f"{lead}; torchrun splits them among {machine.gpus} ranks."
            return Fit(WHOLE, (why,), ranks=machine.gpus)
        if taken <= room or way == ways[-1]:
            return Fit(way, (f"{lead}; {_rest(way, taken, asked)}.",), fits=taken <= room)
    raise AssertionError("one way at least is open")


def _open_ways(asked: Asked) -> tuple[str, ...]:
    """The ways that the user's settings leave open, the one that changes least first."""
    if asked.quantization not in ("", NONE):
        return (ADAPTER_ON_FOUR_BITS,)
    ways = (ADAPTER,) if asked.adapter else (WHOLE, ADAPTER)
    return ways if asked.quantization == NONE else (*ways, ADAPTER_ON_FOUR_BITS)


def _taken(way: str, model: ModelLook, asked: Asked) -> int:
    """Bytes of weights, gradients and optimizer."""
    if way == WHOLE:
        return int(asked.each * model.parameters)
    frozen = _BYTES[asked.dtype]
    adapter = asked.each * asked.r * model.adapter_width
    if way == ADAPTER:
        return int(frozen * model.parameters + adapter)
    outside = model.parameters - model.in_layers
    return int(_FOUR_BITS * model.in_layers + frozen * outside + adapter)


def _lead(first: str, model: ModelLook, asked: Asked, machine: Machine) -> str:
    """The beginning of the reason: what the first of the ways takes, or who asks for it."""
    if first == WHOLE:
        needed = f"{asked.each:.3g} bytes each, {_size(_taken(WHOLE, model, asked))}"
        return f"All weights with {asked.optimizer} take {needed}, and {machine.in_words}"
    key = "[train.lora]" if first == ADAPTER else f'model.quantization = "{asked.quantization}"'
    return f"{key} is set, and so an adapter is trained; {machine.in_words}"


def _rest(way: str, taken: int, asked: Asked) -> str:
    """The end of the reason for a way."""
    if way == WHOLE:
        return "the passes take the rest"
    held = f"the base in {asked.dtype}"
    if way == ADAPTER_ON_FOUR_BITS:
        held = f"the base in 4 bits and its embeddings and head in {asked.dtype}"
    return f"under an adapter, with {held}, all weights take {_size(taken)}"


def missing_packages(way: str, is_there: Sequence[str]) -> str:
    """The extras to install for a way of training; `is_there`: packages that are installed."""
    wanted = {WHOLE: (), ADAPTER: ("peft",), ADAPTER_ON_FOUR_BITS: ("peft", "bitsandbytes")}[way]
    return ",".join(name for name in wanted if name not in is_there)


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / (1 << 20):.0f} MiB"
