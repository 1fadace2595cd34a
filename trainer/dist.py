"""Ranks: one process a GPU (or several on a CPU) under torchrun; alone without it.

Gradients are summed by hand after the last micro-batch instead of by DistributedDataParallel: a rank whose
part of a small last batch is empty has no forward, and DDP would wait for its hooks for ever. The loss is
divided by the pairs of the global batch, which every rank knows, so the sum over ranks is the gradient of the
whole, whatever part each of them held.
"""

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from schemas.devices import check_device

_BUCKET = 1 << 25  # elements summed in one call: few calls, without a second copy of a large model
_TIMEOUT = datetime.timedelta(minutes=30)  # how long a rank waits for another before it fails

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train one policy.

    `rank` counts from 0. Every rank must call each method that talks to the others, in the same order. A
    single rank talks to no one: it gets back what it gave."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True on the rank that writes and prints."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, on every rank. `values` is overwritten with it."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over ranks.

        A rank that has no gradient, since its part of the batch was empty, adds zeros."""
        if self.world_size == 1:
            return
        bucket: list[torch.Tensor] = []
        elements = 0
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            elements += parameter.grad.numel()
            if elements >= _BUCKET:
                _sum_in_one_call(bucket)
                bucket = []
                elements = 0
        if bucket:
            _sum_in_one_call(bucket)

    def gather(self, values: list[T]) -> list[T]:
        """The lists of all ranks, joined in the order of the ranks, on every rank."""
        if self.world_size == 1:
            return values
        parts: list[list[T]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(parts, values)
        joined: list[T] = []
        for part in parts:
            joined.extend(part)
        return joined

    def wait(self) -> None:
        """Wait until every rank has come here, so that none reads what rank 0 has not written yet."""
        if self.world_size > 1:
            dist.barrier()


def _sum_in_one_call(gradients: list[torch.Tensor]) -> None:
    """Replace some gradients by their sums over ranks, copied into one tensor for it."""
    sizes = [gradient.numel() for gradient in gradients]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, total in zip(gradients, flat.split(sizes), strict=True):
        gradient.copy_(total.view_as(gradient))


def start(device: str) -> Ranks:
    """Join the other ranks, as torchrun's environment names them. `device` is the one of [model].

    Raises UserError for a device that is not here."""
    check_device(device)
    rank = int(os.environ.get("RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    own_device = _device_of_process(device, world_size)
    uses_gpu = own_device.type == "cuda"
    if uses_gpu:
        torch.cuda.set_device(own_device)
    if world_size > 1:
        backend = "nccl" if uses_gpu else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT)
    return Ranks(rank, world_size, own_device)


def _device_of_process(device: str, world_size: int) -> torch.device:
    """The device of this process alone.

    A process without others gets the device that was named. Several have a GPU each, by their number on
    this machine, whichever GPU was named; or they share the CPU."""
    if world_size == 1 and device not in ("auto", "cuda"):
        return torch.device(device)
    wants_gpu = device.startswith("cuda")
    if device == "auto":
        wants_gpu = torch.cuda.is_available()
    if not wants_gpu:
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", 0))
    return torch.device(f"cuda:{number}")


def is_first() -> bool:
    """True if this process is rank 0. Unlike `Ranks.first` it can be asked before `start`."""
    return os.environ.get("RANK", "0") == "0"


def stop() -> None:
    """Leave the other ranks; nothing happens if `start` has not joined any."""
    if dist.is_initialized():
        dist.destroy_process_group()
