"""Tensors from the CPU to a device in one copy.

A copy from ordinary memory blocks the CPU until the device has caught up; one from pinned memory does not.
"""

from collections.abc import Sequence

import torch

_ALIGNMENT = 16  # bytes; a tensor within the one copy begins at a multiple


def move_together(tensors: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """The tensors on the device, in one copy from pinned memory; on a CPU as they are."""
    if device.type == "cpu":
        return list(tensors)
    offsets: list[int] = []
    size = 0
    for tensor in tensors:
        offsets.append(size)
        size += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for tensor, offset in zip(tensors, offsets, strict=True):
        _view(buffer, offset, tensor).copy_(tensor)
    moved = buffer.to(device, non_blocking=True)
    return [_view(moved, offset, tensor) for tensor, offset in zip(tensors, offsets, strict=True)]


def _view(buffer: torch.Tensor, offset: int, like: torch.Tensor) -> torch.Tensor:
    """The part of a buffer of bytes that holds a tensor of this type and shape."""
    return buffer[offset : offset + like.nbytes].view(like.dtype).view(like.shape)
