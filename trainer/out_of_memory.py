"""What happens when a pass runs out of memory: smaller passes, and the same numbers.

One rank alone halves its budget of tokens and repeats the step: gradients are sums over pairs, so only their
rounding changes. Among several ranks the others may wait in a collective call that this one cannot take part
in any more. So the run ends, the halved budget is kept in its folder (trainer/fitting.py), and the same
command goes on from the last checkpoint with it.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

from schemas.errors import UserError
from schemas.screen import warn

# What torch's allocator for the CPU says, on Linux and elsewhere.
_ON_CPU = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")

ADVICE = (
    "`trainer plan` with the same arguments says what takes less: train.parallel = fsdp on several ranks, "
    "train.gradient_checkpointing = true, train.optimizer = adamw_8bit, train.weights = bfloat16, "
    "[train.lora]"
)


def _keep_nothing(tokens: int) -> None:
    """Nobody asked for the budget to be kept."""
    del tokens


@dataclass
class Budget:
    """The most tokens of a pass, from now on. `keep` writes them down for a run that goes on later."""

    tokens: int
    keep: Callable[[int], None] = _keep_nothing

    def lower(self, used: int, pairs: int, ranks: int) -> None:
        """Halve it, after a pass of so many tokens and pairs ran out of memory on one of so many ranks.

        Raises UserError where one pair alone does not fit, and among several ranks in any case."""
        if pairs == 1:
            raise UserError(f"out of memory in a pass of one pair of {used:,} tokens: {ADVICE}")
        self.tokens = max(1, min(self.tokens, used) // 2)
        self.keep(self.tokens)
        if ranks > 1:
            raise UserError(
                f"a rank ran out of memory in a pass of {used:,} tokens, and the others cannot repeat it "
                "without it: run the same command again, which goes on from the last checkpoint with passes "
                f"of at most {self.tokens:,} tokens"
            )
        warn(
            f"out of memory in a pass of {used:,} tokens: repeated, from now on with at most "
            f"{self.tokens:,} (train.micro_batch_tokens)"
        )


def ran_out(error: BaseException) -> bool:
    """True for what torch raises where a GPU, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ON_CPU)


def free(device: torch.device) -> None:
    """Give back what a pass that failed has left. Call it when its exception is gone, which holds tensors."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
