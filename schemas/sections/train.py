"""The section [train] of a recipe: how the policy is optimised."""

from dataclasses import dataclass
from typing import Any

from schemas import checks, extensions
from schemas.fields import Section, choice, number, setting, tables


@dataclass(frozen=True)
class Train(Section):
    """Optimise the policy on the pairs. A loss has its own keys in [train.<loss>]."""

    loss: str = "dpo"
    learning_rate: float = number(5e-7, above=0)
    optimizer: str = choice("adamw", "adamw", "rmsprop")
    weight_decay: float = number(0.0, low=0)
    betas: tuple[float, ...] = setting((0.9, 0.999), checks.betas)  # of adamw
    schedule: str = choice("linear", "linear", "cosine", "constant")  # after the warm-up
    warmup_steps: int = number(0, low=0)
    warmup_ratio: float = number(0.0, low=0, high=1)  # of all steps, where warmup_steps is 0
    max_grad_norm: float = number(1.0, low=0)  # 0: no clipping
    batch_size: int = number(64, low=1)  # pairs of one optimizer step, over all ranks
    # Global batches whose pairs are grouped by length. Above 1 (8, say): ranks with few pairs each wait less,
    # a padded model pads less.
    look_ahead: int = number(1, low=1)
    # Tokens of one forward pass; bounds memory, changes no result. 0: 2048 on a CPU, 16384 on a GPU.
    micro_batch_tokens: int = number(0, low=0)
    epochs: int = number(1, low=1)
    max_steps: int = -1  # above 0: this many steps, whatever epochs says
    # float32, or bfloat16: autocast over float32 weights.
    dtype: str = choice("float32", "float32", "bfloat16")
    gradient_checkpointing: bool = False
    # Steps between evaluations on the test split; 0: at the start and at the end only.
    eval_every: int = number(0, low=0)
    save_every: int = number(500, low=0)  # steps between checkpoints; the last step is always saved
    keep: int = number(2, low=0)  # checkpoints kept; 0: all
    # Largest mean gap, nat a token, between cache and policy at step 0; 0: 1e-3 in float32, 0.05 otherwise.
    tolerance: float = number(0.0, low=0)
    tensorboard: bool = False
    # Seconds without a sign of life after which the other ranks give a rank up; 0: they wait for ever.
    timeout: int = number(60, low=0)
    # The tables [train.<loss>] and [train.sft], read by the losses.
    options: dict[str, Any] = tables(collects=True)

    def check_with_extensions(self) -> None:
        extensions.check_loss(self)
