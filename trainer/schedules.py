"""The learning rate's way through the steps: up during the warm-up, then as train.schedule says.

The factors are those of transformers' schedulers of the same names. Importing them there takes seconds where
PEFT is installed.
"""

import functools
import math

import torch
from torch.optim.lr_scheduler import LambdaLR


def make_schedule(optimizer: torch.optim.Optimizer, name: str, warmup_steps: int, steps: int) -> LambdaLR:
    """The schedule `name` over `steps` steps; the rate rises from 0 in the first `warmup_steps`."""
    factor = functools.partial(_factor, name=name, warmup_steps=warmup_steps, steps=steps)
    schedule = LambdaLR(optimizer, factor)
    # torchao's are float32 tensors, of which a product is rounded; a checkpoint gives them back as floats.
    schedule.base_lrs = [float(rate) for rate in schedule.base_lrs]
    return schedule


def _factor(step: int, *, name: str, warmup_steps: int, steps: int) -> float:
    """What the learning rate is multiplied by after `step` steps."""
    if step < warmup_steps:
        return step / max(1, warmup_steps)
    if name == "constant":
        return 1.0
    steps_down = max(1, steps - warmup_steps)
    if name == "linear":
        return max(0.0, (steps - step) / steps_down)
    share_done = (step - warmup_steps) / steps_down
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * share_done)))
