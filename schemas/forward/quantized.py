"""Weights in 4 bits, by bitsandbytes: model.quantization = "nf4", the same in engine and trainer.

NF4 with double quantisation, as QLoRA has it (arXiv 2305.14314): the matrices of the linear layers but the
head take half a byte a weight. They are turned back to the dtype of the forward pass where they are used, so
a pass is what it would be with weights rounded to 16 values a block.
"""

import contextlib
import functools
import importlib.util
import logging
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from schemas.errors import UserError
from schemas.forward.hiding import hidden
from schemas.quantization import NONE, check

_PACKS = "support_avx512bf16_for_cpu"
_SHOWN = 300  # letters of what it says when it fails


def options(quantization: str, dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
    """The arguments of from_pretrained that load a model so; none where it is not quantised.

    `dtype`: the forward pass runs in it. Raises UserError as `check` does, and where
    bitsandbytes cannot be imported."""
    check(quantization)
    if quantization == NONE:
        return {}
    from transformers import BitsAndBytesConfig

    reason = import_quietly()
    if reason:
        raise UserError(
            f'model.quantization = "{quantization}" needs bitsandbytes, which is installed and fails when it '
            f"is imported: {reason}; install one that works with this torch (pip install --upgrade "
            'bitsandbytes), or set model.quantization = "none"'
        )
    form = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": form, "device_map": {"": str(device)}}


def import_quietly() -> str:
    """Import bitsandbytes, where it is installed, without what it says of packages that it can do without.

    Returns why that failed, empty where it did not or where there is none to import."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return ""
    return _failure()


def hidden_if_broken() -> AbstractContextManager[None]:
    """In it a bitsandbytes that cannot be imported is as one that is not installed: PEFT would import it."""
    return hidden("bitsandbytes") if import_quietly() else contextlib.nullcontext()


@functools.cache
def _failure() -> str:
    """Asked once: a package that has failed half-way fails in another way the next time."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with hidden("kernels"):
            import bitsandbytes  # noqa: F401
    except Exception as error:  # whatever its libraries raise
        said = " ".join(str(error).split())
        return f"{type(error).__name__}: {said}"[:_SHOWN]
    return ""


def settle(model: nn.Module) -> None:
    """Let every pass through quantised weights be the same computation.

    On a CPU that multiplies bfloat16, bitsandbytes packs the weights anew in a pass without gradient, for a
    kernel that has no backward pass and does not take every shape."""
    for module in model.modules():
        if hasattr(module, _PACKS):
            setattr(module, _PACKS, False)
