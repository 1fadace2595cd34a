"""Which samples are drawn side by side, and for how many of them there is memory."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from schemas.forward.rows import Rows

_SHORT = 512  # tokens; prompts up to here are of one class
_CPU_BYTES = 4 << 30  # of keys and values: the same on every machine
_SHARE = 0.5  # of a GPU's memory without the weights, for keys and values
_SHARE_OF_FREE = 0.8  # of what is free now, where that is less: a resize holds a layer twice


@dataclass(frozen=True, order=True)
class Asked:
    """A sample to be drawn; sorted by room, then by length."""

    room: int  # tokens that it may have
    length: int  # of its prompt
    prompt: int  # the prompt's index
    index: int  # among the prompt's samples


def in_batches(asked: Sequence[Asked], rows: int) -> Iterator[list[Asked]]:
    """Batches of up to `rows`, prompts of like length together.

    Where a prompt leaves less room than max_tokens, only prompts of its length go beside it, so that all end
    together."""
    for _, same_room in itertools.groupby(sorted(asked), key=lambda item: item.room):
        alike = list(same_room)
        for begin in range(0, len(alike), rows):
            yield alike[begin : begin + rows]


def by_length(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Classes of prompts, none of them twice as long as another unless both are short.

    Every row of a cache is as long as the longest, in memory and in attention. Long prompts come first: the
    cache then has its length early."""
    ordered = sorted(asked, key=lambda one: (-one.length, one.prompt, one.index))
    for _, alike in itertools.groupby(ordered, key=lambda one: (max(_SHORT, one.length) - 1).bit_length()):
        yield list(alike)


def rows_of(model: PreTrainedModel, count: int, token_bytes: int) -> Rows:
    """A cache of up to `count` rows, within the memory of the model's device.

    `token_bytes`: of a token's keys and values."""
    device = model.device
    budget = _CPU_BYTES
    if device.type != "cpu":
        budget = gpu_budget(model, device)
    return Rows(count, most=max(1, budget // token_bytes))


def gpu_budget(model: PreTrainedModel, device: torch.device) -> int:
    """Bytes for keys and values on a GPU.

    A share of its whole memory, so that the number of rows is as a rule the same on GPUs that are alike. Less
    only where other processes left less."""
    free, whole = torch.cuda.mem_get_info(device)
    own_idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    share = _SHARE * (whole - model.get_memory_footprint())
    return max(0, int(min(share, _SHARE_OF_FREE * (free + own_idle))))
