"""Two sides of `speed.py` on one GPU: whoever waits leaves its memory to the other.

A side that waits holds its weights and the optimizer's moments in the machine's memory, no gradients, and
gives the allocator's cache back. So each side's peak is its own, and both of 1.5 billion parameters go
through a GPU of 80 GB. On a CPU the same is done and changes nothing.
"""

from typing import Any

# Operations a second in dense bfloat16, from the makers' data sheets; by a part of the GPU's name, in order.
_RATES = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}


def take(model: Any, optimizer: Any, device: str) -> None:
    """Bring a side's tensors to the device."""
    _move(model, optimizer, device)


def leave(model: Any, optimizer: Any) -> None:
    """Leave the device to the other side."""
    import gc

    import torch

    for parameter in model.parameters():
        parameter.grad = None
    _move(model, optimizer, "cpu")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _move(model: Any, optimizer: Any, device: str) -> None:
    """Move weights, buffers and moments. Parameters stay the objects they are: others hold them too."""
    import torch

    model.to(device)
    for state in optimizer.state.values() if optimizer else ():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                state[name] = value.to(device)


def gpu_rate() -> float:
    """Operations a second of this GPU in dense bfloat16. Exits where its data sheet is not known here."""
    import sys

    import torch

    name = torch.cuda.get_device_name()
    for part, rate in _RATES.items():
        if part in name:
            return rate
    sys.exit(f"no rate of a {name} is known: add the one of its data sheet to _RATES in {__file__}")
