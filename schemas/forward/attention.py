"""Attention for a packed row, behind transformers' attention interface.

A segment is a prompt or a response. A prompt sees itself; a response sees its prompt and itself. Both are
causal.

- In general, one call of scaled dot product attention a segment. No mask of the row's length squared exists.
- In half precision on a GPU, one flash kernel call for all segments (`varlen_attn`), with the keys that each
  segment sees gathered for it.
- A model that caps its attention scores (Gemma 2) computes them in full, a segment at a time.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import varlen
from transformers import AttentionInterface

from schemas.forward.layout import GroupLengths, Layout

PACKED = "prefmill_packed"  # the value of config._attn_implementation that chooses this attention
_KERNEL_DTYPES = (torch.float16, torch.bfloat16)
_KERNEL_INDEX = "kernel_index"  # its key in Layout.attention_cache; masks have their shape as a key


@dataclass(frozen=True)
class _Options:
    """What a layer asks of its attention. `scale` None is 1 / sqrt(head size)."""

    scale: float | None
    dropout: float
    window: int | None  # a token sees so many tokens, itself counted
    softcap: float | None


@dataclass(frozen=True)
class _KernelIndex:
    """The segments as the flash kernel wants them: a run of queries and a run of keys for each.

    `keys`: where each segment's keys lie in the row, segment after segment.
    `query_cuts`, `key_cuts`: (segments + 1,) int32, where the queries and keys of each segment begin, and
    where those of the last one end.
    `longest_query`, `longest_key`: the most queries and the most keys of one segment."""

    keys: torch.Tensor
    query_cuts: torch.Tensor
    key_cuts: torch.Tensor
    longest_query: int
    longest_key: int


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
    **_: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface; `packed` is the layout of the row. The mask is ignored.

    Takes query (1, heads, T, d), key and value (1, kv heads, T, d); returns (1, T, heads, d)."""
    assert packed is not None, "the packed attention was called outside of token_logps"
    options = _Options(scaling, dropout, sliding_window, softcap)
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
        group_keys = _repeat_heads(keys[number], repeats)
        group_values = _repeat_heads(values[number], repeats)
        outputs += _attend_group(lengths, queries[number], group_keys, group_values, options, packed)
    joined = torch.cat(outputs, 2)
    return joined.transpose(1, 2).contiguous(), None


AttentionInterface.register(PACKED, packed_attention)


def _repeat_heads(x: torch.Tensor, repeats: int) -> torch.Tensor:
    """Each key or value head once for each query head that uses it."""
    if repeats == 1:
        return x
    return x.repeat_interleave(repeats, 1)


def _attend_group(
    lengths: list[int],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    options: _Options,
    layout: Layout,
) -> list[torch.Tensor]:
    """One group's outputs, segment after segment; `lengths` are of its prompt and of its responses."""
    prompt_query, *response_queries = query.split(lengths, 2)
    prompt_key, *response_keys = key.split(lengths, 2)
    prompt_value, *response_values = value.split(lengths, 2)
    outputs = [_attend(prompt_query, prompt_key, prompt_value, options, layout)]
    for own_query, own_key, own_value in zip(response_queries, response_keys, response_values, strict=True):
        # A response of one token is predicted from its prompt alone: none of it is fed.
        if own_query.shape[2]:
            seen_key = torch.cat([prompt_key, own_key], 2)
            seen_value = torch.cat([prompt_value, own_value], 2)
            outputs.append(_attend(own_query, seen_key, seen_value, options, layout))
    return outputs


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    options: _Options,
    layout: Layout,
) -> torch.Tensor:
    """Causal attention; the queries are of the last positions that the keys are of."""
    queries = query.shape[2]
    keys = key.shape[2]
    window = options.window
    if window is not None and keys <= window:
        window = None
    if options.softcap is not None:
        mask = _mask(queries, keys, window, query.device, layout)
        return _attend_capped(query, key, value, mask, options)
    if queries == keys and window is None:
        return F.scaled_dot_product_attention(
            query, key, value, dropout_p=options.dropout, scale=options.scale, is_causal=True
        )
    mask = _mask(queries, keys, window, query.device, layout)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=options.dropout, scale=options.scale
    )


def _attend_capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    options: _Options,
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


def _mask(queries: int, keys: int, window: int | None, device: torch.device, layout: Layout) -> torch.Tensor:
    """(queries, keys) bool, True where a query sees a key; the last query is aligned with the last key."""
    shape = (queries, keys, window)
    if shape not in layout.attention_cache:
        ahead = keys - queries
        mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(ahead)
        if window is not None:
            mask = mask.triu(ahead - window + 1)
        layout.attention_cache[shape] = mask
    return layout.attention_cache[shape]


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
    options: _Options,
    layout: Layout,
) -> torch.Tensor:
    """Attention of all segments in one flash kernel call: (1, T, heads, d)."""
    if _KERNEL_INDEX not in layout.attention_cache:
        layout.attention_cache[_KERNEL_INDEX] = _kernel_index(layout.segments, query.device)
    index: _KernelIndex = layout.attention_cache[_KERNEL_INDEX]
    # Norms of single heads may leave float32 under autocast; the value tells the dtype wanted.
    dtype = value.dtype
    query = _tokens_first(query, dtype)
    key = _tokens_first(key, dtype)
    value = _tokens_first(value, dtype)
    seen_keys = key.index_select(0, index.keys)
    seen_values = value.index_select(0, index.keys)
    # A window counts the token itself; the kernel counts those before it, and -1 is no window.
    before = -1
    if options.window is not None:
        before = options.window - 1
    output = varlen.varlen_attn(
        query,
        seen_keys,
        seen_values,
        index.query_cuts,
        index.key_cuts,
        index.longest_query,
        index.longest_key,
        scale=options.scale,
        window_size=(before, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(output, torch.Tensor)  # and no log-sum-exp beside it, which was not asked for
    return output[None]


def _tokens_first(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(1, heads, T, d) to (T, heads, d)."""
    return x[0].transpose(0, 1).to(dtype)


def _kernel_index(segments: list[GroupLengths], device: torch.device) -> _KernelIndex:
    """Queries and keys for the kernel, which aligns the last query of a segment with its last key.

    So a prompt and its first response, which are neighbours in the row, are one segment. Every other response
    is one that sees the prompt and itself."""
    keys: list[np.ndarray] = []
    query_lengths: list[int] = []
    key_lengths: list[int] = []
    begin = 0
    for prompt, responses in segments:
        first, *others = responses
        prompt_keys = np.arange(begin, begin + prompt)
        end = begin + prompt + first
        keys.append(np.arange(begin, end))
        query_lengths.append(prompt + first)
        key_lengths.append(prompt + first)
        for length in others:
            # A response of one token is predicted from its prompt alone: none of it is fed.
            if length:
                keys.append(prompt_keys)
                keys.append(np.arange(end, end + length))
                query_lengths.append(length)
                key_lengths.append(prompt + length)
                end += length
        begin = end
    return _KernelIndex(
        keys=torch.from_numpy(np.concatenate(keys)).to(device),
        query_cuts=_cuts(query_lengths, device),
        key_cuts=_cuts(key_lengths, device),
        longest_query=max(query_lengths),
        longest_key=max(key_lengths),
    )


def _cuts(lengths: list[int], device: torch.device) -> torch.Tensor:
    """Where runs of these lengths begin, one after the other, and where the last one ends."""
    cuts = [0, *itertools.accumulate(lengths)]
    return torch.tensor(cuts, dtype=torch.int32, device=device)
