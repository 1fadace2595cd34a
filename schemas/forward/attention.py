"""Attention for a packed row, behind transformers' attention interface.

A segment is a prompt or a response. A prompt sees itself; a response sees its prompt and itself. Both are
causal.

- In general, one call of scaled dot product attention a segment. No mask of the row's length squared exists.
- In half precision on a GPU, one flash kernel call for all segments (`varlen_attn`), with the keys that each
  segment sees gathered for it.
- A model that caps its attention scores (Gemma 2) computes them in full, a segment at a time.
"""

import functools
import inspect
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import varlen
from transformers import AttentionInterface, PreTrainedModel

from schemas.forward.layout import Layout

PACKED = "prefmill_packed"  # the value of config._attn_implementation that chooses this attention
_KERNEL_DTYPES = (torch.float16, torch.bfloat16)
# What some families ask of their attention beyond this one: sinks (gpt-oss), a bias, chosen keys (sparse).
NOT_DONE = ("s_aux", "position_bias", "indices", "block_indices")


@dataclass(frozen=True)
class Options:
    """What a layer asks of its attention. `scale` None is 1 / sqrt(head size)."""

    scale: float | None
    dropout: float
    window: int | None  # a token sees so many tokens, itself counted
    softcap: float | None


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed: Layout | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface; `packed` is the layout of the row. The mask is ignored.

    Takes query (1, heads, T, d), key and value (1, kv heads, T, d); returns (1, T, heads, d). Raises
    NotImplementedError for what it does not do, which `selftest.prepare` takes for a reason to pad."""
    assert packed is not None, "the packed attention was called outside of token_logps"
    for name in NOT_DONE:
        if more.get(name) is not None:
            raise NotImplementedError(f"packed attention with {name}")
    if sliding_window is not None:
        packed.windows.add(sliding_window)
    options = Options(scaling, dropout, sliding_window, softcap)
    if _kernel_runs(query, key, value) and softcap is None and not dropout:
        return _attend_in_one_kernel(query, key, value, options, packed), None
    repeats = query.shape[1] // key.shape[1]
    group_lengths = [prompt + sum(responses) for prompt, responses in packed.segments]
    # `split`, not slices: the backward of a slice fills a zero tensor of the whole length for every segment.
    queries = query.split(group_lengths, 2)
    keys = key.split(group_lengths, 2)
    values = value.split(group_lengths, 2)
    outputs: list[torch.Tensor] = []
    for number, (prompt, responses) in enumerate(packed.segments):
        lengths = [prompt, *responses]
        group_keys = repeat_heads(keys[number], repeats)
        group_values = repeat_heads(values[number], repeats)
        outputs += _attend_group(lengths, queries[number], group_keys, group_values, options, packed)
    joined = torch.cat(outputs, 2)
    return joined.transpose(1, 2).contiguous(), None


AttentionInterface.register(PACKED, packed_attention)


def own_attention(model: PreTrainedModel) -> str:
    """The attention of transformers' that gives what the model was trained with.

    It is sdpa where the family allows it. transformers' sdpa leaves out the cap on the scores (Gemma 2)
    without a word, so a model that has one gets eager."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        return "eager"
    return "sdpa" if model._supports_sdpa else "eager"


def repeat_heads(x: torch.Tensor, repeats: int) -> torch.Tensor:
    """Each key or value head once for each query head that uses it."""
    if repeats == 1:
        return x
    return x.repeat_interleave(repeats, 1)


def _attend_group(
    lengths: list[int],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    options: Options,
    layout: Layout,
) -> list[torch.Tensor]:
    """One group's outputs, segment after segment; `lengths` are of its prompt and of its responses."""
    prompt_query, *response_queries = query.split(lengths, 2)
    prompt_key, *response_keys = key.split(lengths, 2)
    prompt_value, *response_values = value.split(lengths, 2)
    outputs = [attend(prompt_query, prompt_key, prompt_value, options, layout.attention_cache)]
    for own_query, own_key, own_value in zip(response_queries, response_keys, response_values, strict=True):
        # A response of one token is predicted from its prompt alone: none of it is fed.
        if own_query.shape[2]:
            seen_key = torch.cat([prompt_key, own_key], 2)
            seen_value = torch.cat([prompt_value, own_value], 2)
            outputs.append(attend(own_query, seen_key, seen_value, options, layout.attention_cache))
    return outputs


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    options: Options,
    masks: dict[Hashable, Any],
) -> torch.Tensor:
    """Causal attention; the queries are of the last positions that the keys are of.

    `masks`: made once for all layers of a pass, by their shape."""
    queries = query.shape[2]
    keys = key.shape[2]
    window = options.window
    if window is not None and keys <= window:
        window = None
    if options.softcap is not None:
        mask = _mask(queries, keys, window, query.device, masks)
        return attend_capped(query, key, value, mask, options)
    if queries == keys and window is None:
        return F.scaled_dot_product_attention(
            query, key, value, dropout_p=options.dropout, scale=options.scale, is_causal=True
        )
    mask = _mask(queries, keys, window, query.device, masks)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=options.dropout, scale=options.scale
    )


def attend_capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    options: Options,
) -> torch.Tensor:
    """Attention with scores capped to ±softcap, which scaled_dot_product_attention does not offer."""
    softcap = options.softcap
    assert softcap is not None
    scale = options.scale or query.shape[3] ** -0.5
    # One name throughout: each is a whole matrix of scores, and the one before is gone with its name.
    scores = query @ key.transpose(2, 3) * scale
    scores = softcap * torch.tanh(scores / softcap)
    scores = scores.float().masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1).to(query.dtype)
    return F.dropout(weights, options.dropout) @ value


def _mask(
    queries: int,
    keys: int,
    window: int | None,
    device: torch.device,
    masks: dict[Hashable, Any],
) -> torch.Tensor:
    """(queries, keys) bool, True where a query sees a key; the last query is aligned with the last key."""
    shape = (queries, keys, window)
    if shape not in masks:
        ahead = keys - queries
        mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(ahead)
        if window is not None:
            mask = mask.triu(ahead - window + 1)
        masks[shape] = mask
    return masks[shape]


def _kernel_runs(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """True if flash attention runs on these tensors.

    It wants half precision, a GPU of compute capability 8 or more, and heads of one size: a multiple of 8, at
    most 256."""
    head_size = value.shape[3]
    return (
        value.is_cuda
        and value.dtype in _KERNEL_DTYPES
        and query.shape[3] == key.shape[3] == head_size <= 256
        and head_size % 8 == 0
        and torch.cuda.get_device_capability(value.device) >= (8, 0)
    )


def _attend_in_one_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    options: Options,
    layout: Layout,
) -> torch.Tensor:
    """Attention of all segments in one flash kernel call: (1, T, heads, d)."""
    # Norms of single heads may leave float32 under autocast; the value tells the dtype wanted.
    dtype = value.dtype
    query = _tokens_first(query, dtype)
    key = _tokens_first(key, dtype)
    value = _tokens_first(value, dtype)
    seen_keys = key.index_select(0, layout.seen)
    seen_values = value.index_select(0, layout.seen)
    more: dict[str, Any] = {}
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1 and _shares_heads(varlen.varlen_attn):
        more["enable_gqa"] = True
    else:
        seen_keys = repeat_heads(seen_keys, repeats)
        seen_values = repeat_heads(seen_values, repeats)
    # A window counts the token itself; the kernel counts those before it, and -1 is no window.
    before = -1
    if options.window is not None:
        before = options.window - 1
    output = varlen.varlen_attn(
        query,
        seen_keys,
        seen_values,
        layout.query_cuts,
        layout.key_cuts,
        layout.longest_query,
        layout.longest_key,
        scale=options.scale,
        window_size=(before, 0),
        **more,
    )
    assert isinstance(output, torch.Tensor)  # and no log-sum-exp beside it, which was not asked for
    return output[None]


@functools.cache
def _shares_heads(kernel: Callable[..., object]) -> bool:
    """True if the kernel lets several query heads use one key head; torch 2.11's does not."""
    return "enable_gqa" in inspect.signature(kernel).parameters


def _tokens_first(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(1, heads, T, d) to (T, heads, d)."""
    return x[0].transpose(0, 1).to(dtype)
