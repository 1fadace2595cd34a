"""A model made ready for transformers' `generate`, or for an attention of ours, and put back after it."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from schemas.forward.attention import PACKED, own_attention


@contextlib.contextmanager
def generating(model: PreTrainedModel) -> Iterator[None]:
    """Let a model use its own attention and its key-value cache.

    The packed attention knows nothing of that cache, and layers that checkpoint their activations, which are
    in training alone for that, drop it."""
    attention = model.config._attn_implementation
    if attention == PACKED:
        attention = own_attention(model)
    with attending(model, attention):
        yield


@contextlib.contextmanager
def attending(model: PreTrainedModel, attention: str) -> Iterator[None]:
    """Let a model use an attention by its name, and none of its layers be in training."""
    config = model.config
    before = config._attn_implementation
    in_training: list[nn.Module] = [module for module in model.modules() if module.training]
    config._attn_implementation = attention
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        config._attn_implementation = before
        for module in in_training:
            module.training = True


def padded_left(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, width) prompts padded on the left, and where they are not."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        begin = width - len(prompt)
        ids[row, begin:] = torch.tensor(prompt)
        mask[row, begin:] = 1
    return ids, mask
