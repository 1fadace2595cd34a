"""How a model can be trained in the memory that is free here: whole, by an adapter, or by one on 4 bits.

Bytes of a weight that is trained: 4 for it, 4 for its gradient, and 4 for each moment of the optimizer (AdamW
two, RMSprop one). A frozen weight under an adapter: 2 on a GPU and 4 on a CPU; in 4 bits a little more than a
half. The rest is for the passes. `trainer plan` counts exactly, once there are pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.init.model_look import ModelLook
from schemas.room import free_memory, free_of_gpus

_SHARE = 0.7  # of the memory that weights, gradients and optimizer may take
_MOMENTS = {"rmsprop": 1}  # of the others: two
_FOUR_BITS = 0.6  # bytes of a weight in nf4, with its scales
_GIB = 1 << 30

WHOLE, ADAPTER, ADAPTER_ON_FOUR_BITS = "whole", "adapter", "adapter on 4 bits"


@dataclass(frozen=True)
class Machine:
    """What is free: of each GPU, or of the machine's memory where there is none. 0: not known."""

    free: int
    gpus: int

    @property
    def in_words(self) -> str:
        """As a clause."""
        if not self.gpus:
            return f"this machine has {_size(self.free)} of memory free"
        each = "the GPU has" if self.gpus == 1 else f"each of {self.gpus} GPUs has"
        return f"{each} {_size(self.free)} free"


@dataclass(frozen=True)
class Fit:
    """How to train, and why, in lines. `fits`: false where even the smallest way takes more than there is."""

    way: str
    why: tuple[str, ...]
    fits: bool = True


def this_machine() -> Machine:
    """What is free here now."""
    gpus = free_of_gpus()
    if gpus:
        return Machine(min(gpus), len(gpus))
    return Machine(free_memory() or 0, 0)


def fit(model: ModelLook, optimizer: str, machine: Machine) -> Fit:
    """The way that fits: the whole model if it can be, else as little changed as possible."""
    if model.path is None or not machine.free:
        return Fit(WHOLE, ("How much memory it takes here is not known: trainer plan says it.",))
    if model.is_adapter:
        return Fit(WHOLE, ("The model is an adapter: trainer merge makes one model of it, to train.",))
    each = 8 + 4 * _MOMENTS.get(optimizer, 2)
    room = int(_SHARE * machine.free)
    whole = each * model.parameters
    needed = f"All weights with {optimizer} take {each} bytes each, {_size(whole)}, and {machine.in_words}"
    if whole <= room:
        return Fit(WHOLE, (f"{needed}; the passes take the rest.",))
    if machine.gpus > 1 and whole <= room * machine.gpus:
        return Fit(WHOLE, (f"{needed}; torchrun splits them among the ranks.",))
    frozen = (2 if machine.gpus else 4) * model.parameters
    if frozen <= room:
        return Fit(ADAPTER, (f"{needed}; under an adapter they take {_size(frozen)}.",))
    four_bits = int(_FOUR_BITS * model.parameters)
    why = f"{needed}; under an adapter and in 4 bits they take {_size(four_bits)}."
    return Fit(ADAPTER_ON_FOUR_BITS, (why,), fits=four_bits <= room)


def missing_packages(way: str, is_there: Sequence[str]) -> str:
    """The extras to install for a way of training; `is_there`: packages that are installed."""
    wanted = {WHOLE: (), ADAPTER: ("peft",), ADAPTER_ON_FOUR_BITS: ("peft", "bitsandbytes")}[way]
    return ",".join(name for name in wanted if name not in is_there)


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / (1 << 20):.0f} MiB"
