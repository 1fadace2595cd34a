"""What this machine computes on: its devices, its cores, and how many tokens one forward pass takes.

The engine imports this module for commands that must not load torch, so torch is imported inside functions.
"""

import os

from schemas.errors import UserError

# Tokens of one forward pass. On a CPU short rows stay in its caches; a GPU wants long ones.
_BATCH_TOKENS_CPU = 2048
_BATCH_TOKENS_GPU = 16384


def check_device(wanted: str) -> None:
    """Raises UserError if `wanted`, the value of `model.device`, names something that is not here."""
    if wanted == "auto":
        return
    import torch

    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise UserError(
            f"model.device = {wanted}: expected auto, cpu, cuda or one GPU such as cuda:1"
        ) from None
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise UserError(
            f"model.device = {wanted}, but torch finds {gpus} GPUs here; "
            "set it to auto or cpu, or install a CUDA build of torch"
        )


def cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def batch_tokens(wanted: int, device_type: str) -> int:
    """The token budget of one forward pass: `wanted`, or where it is 0 what suits the type of device."""
    if wanted:
        return wanted
    if device_type == "cpu":
        return _BATCH_TOKENS_CPU
    return _BATCH_TOKENS_GPU
