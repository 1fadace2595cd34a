"""Weights in 4 bits, by bitsandbytes: model.quantization = "nf4", the same in engine and trainer.

NF4 with double quantisation, as QLoRA has it (arXiv 2305.14314): the matrices of the linear layers but the
head take half a byte a weight. They are turned back to the dtype of the forward pass where they are used, so
a pass is what it would be with weights rounded to 16 values a block.
"""

import importlib.util
import logging
from typing import Any

import torch
from torch import nn

from schemas.forward.hiding import hidden
from schemas.quantization import NONE, check

_PACKS = "support_avx512bf16_for_cpu"


def options(quantization: str, dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
    """The arguments of from_pretrained that load a model so; none where it is not quantised.

    `dtype`: the forward pass runs in it. Raises UserError as `check` does."""
    check(quantization)
    if quantization == NONE:
        return {}
    from transformers import BitsAndBytesConfig

    import_quietly()
    form = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": form, "device_map": {"": str(device)}}


def import_quietly() -> None:
    """Import bitsandbytes, where it is installed, without what it says of packages that it can do without."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with hidden("kernels"):
        import bitsandbytes  # noqa: F401


def settle(model: nn.Module) -> None:
    """Let every pass through quantised weights be the same computation.

    On a CPU that multiplies bfloat16, bitsandbytes packs the weights anew in a pass without gradient, for a
    kernel that has no backward pass and does not take every shape."""
    for module in model.modules():
        if hasattr(module, _PACKS):
            setattr(module, _PACKS, False)
