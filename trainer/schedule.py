"""The learning rate over a training run: a warm-up from 0, then what `train.schedule` says.

The numbers are those of transformers' `get_scheduler`, to the bit. That function lies in a module that loads
PEFT, bitsandbytes and torch's compiler where these are installed: a second of each start.
"""

import math
from collections.abc import Callable
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

# Steps done since the warm-up, and the steps after it in all, to a share of the learning rate.
_AfterWarmup = Callable[[int, int], float]


def new_schedule(optimizer: Optimizer, name: str, warmup_steps: int, steps: int) -> LambdaLR:
    """The schedule `name` over a run of `steps`; the optimizer's learning rate is the highest it reaches."""
    # A partial, not a function of its own: it leaves the same trace in a checkpoint as transformers' does.
    return LambdaLR(optimizer, partial(_share, _AFTER_WARMUP[name], warmup_steps, steps))


def _share(after_warmup: _AfterWarmup, warmup_steps: int, steps: int, step: int) -> float:
    """The share of the highest learning rate at a step, in 0 … 1."""
    if step < warmup_steps:
        return step / warmup_steps
    return after_warmup(step - warmup_steps, steps - warmup_steps)


def _linear(done: int, steps: int) -> float:
    return max(0.0, (steps - done) / max(1, steps))


def _cosine(done: int, steps: int) -> float:
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (done / max(1, steps)))))


def _constant(done: int, steps: int) -> float:
    return 1.0


_AFTER_WARMUP: dict[str, _AfterWarmup] = {"linear": _linear, "cosine": _cosine, "constant": _constant}
