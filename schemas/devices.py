"""What this machine computes on: its devices, its cores, and how many tokens one forward pass takes.

The engine imports this module for commands that must not load torch, so torch is imported inside functions.
"""

import os
from pathlib import Path

from schemas.errors import UserError

# Tokens of one forward pass. On a CPU short rows stay in its caches; a GPU wants long ones.
_BATCH_TOKENS_CPU = 2048
_BATCH_TOKENS_GPU = 16384
# One of these is there where a driver of a GPU is (NVIDIA, AMD, Windows' Linux).
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_FIRST_WITH_BFLOAT16 = 8  # major compute capability, of Ampere


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


def gpu_is_there() -> bool:
    """Look for a GPU. Does not import torch where there is plainly none, so a run with no work is quick."""
    if not any(Path(file).exists() for file in _GPU_FILES):
        return False
    import torch

    return torch.cuda.is_available()


def gpus_here() -> int:
    """How many GPUs this machine shows, or 1 for its CPU. By the devices' files, without torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return max(1, len([name for name in chosen.split(",") if name.strip()]))
    numbered = [path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()]
    return max(1, len(numbered))


def bfloat16_is_there(device: str) -> bool:
    """True where `device`, a value of `model.device`, means GPUs that all compute in bfloat16.

    As `torch.cuda.is_bf16_supported` without emulation, which looks at the current GPU alone."""
    if device == "cpu" or not gpu_is_there():
        return False
    import torch

    if torch.version.hip:
        return True
    one = None if device == "auto" else torch.device(device).index
    wanted = range(torch.cuda.device_count()) if one is None else [one]
    return all(torch.cuda.get_device_capability(index)[0] >= _FIRST_WITH_BFLOAT16 for index in wanted)


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
