"""Ranks: one process a GPU (or several on a CPU) under torchrun; alone without it.

Gradients are summed by hand after the last micro-batch instead of by DistributedDataParallel: a rank whose part of a small last batch is
empty has no forward, and DDP would wait for its hooks for ever. The loss is divided by the pairs of the global batch, which every rank
knows, so the sum over ranks is the gradient of the whole whatever each of them held.
"""

import datetime
import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from schemas.devices import check_device

_BUCKET = 1 << 25  # elements summed in one call: few calls, without a second copy of a large model


@dataclass(frozen=True)
class Ranks:
    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, on every rank."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        if self.world_size == 1:
            return
        bucket: list[torch.Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            if sum(grad.numel() for grad in bucket) >= _BUCKET:
                _sum_flat(bucket)
                bucket = []
        _sum_flat(bucket)

    def gather(self, value: list) -> list:
        """The lists of all ranks, joined, on every rank."""
        if self.world_size == 1:
            return value
        parts: list = [None] * self.world_size
        dist.all_gather_object(parts, value)
        return [item for part in parts for item in part]

    def wait(self) -> None:
        if self.world_size > 1:
            dist.barrier()


def _sum_flat(grads: list[torch.Tensor]) -> None:
    if grads:
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))


def start(device: str) -> Ranks:
    """This process's place among the ranks; `device` as in [model]."""
    check_device(device)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    number = int(os.environ.get("LOCAL_RANK", 0))
    named = world_size == 1 and device not in (
        "auto",
        "cuda",
    )  # several ranks have a GPU each, whichever was named
    place = torch.device(device if named else f"cuda:{number}" if cuda else "cpu")
    if cuda:
        torch.cuda.set_device(place)
    if world_size > 1:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=datetime.timedelta(minutes=30))
    return Ranks(rank, world_size, place)


def is_first() -> bool:
    """Whether this process is rank 0, also before `start`."""
    return os.environ.get("RANK", "0") == "0"


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
