"""Samples token after token: a forward pass over rows that go on by a token each and prompts that begin.

The pass is packed (one row of all tokens), so that no prompt is padded and rows of any length stand side by
side. Its attention keeps the keys and values of each row in a cache of its own, `Rows`, whose rows are given
up and taken one by one. transformers' caches have one length for a whole batch, and its continuous batching
wants a GPU's kernels to be fast.

It serves the models that the packed attention serves; `decodes` says whether it does. A model with another
state beside keys and values (convolutions, state spaces) is none of these.
"""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from schemas import tolerance
from schemas.forward.attention import NOT_DONE, PACKED, Options, attend, attend_capped, repeat_heads
from schemas.forward.generating import attending
from schemas.forward.layout import pack
from schemas.forward.logps import Head, decoder_and_head, token_logps
from schemas.forward.moving import move_together
from schemas.forward.rows import Rows
from schemas.network_errors import is_of_network

DECODING = "prefmill_decoding"  # the value of config._attn_implementation that chooses this attention
_log = logging.getLogger("prefmill")
_PROBE = (5, 3)  # tokens of the shortest prompt that `decodes` tries, and of what follows
_LONGEST_WINDOW = 64  # that its longest prompt exceeds

Ids = Sequence[int]


@dataclass
class Step:
    """One pass: `going` rows by a token each, then prompts that begin rows.

    `ids`, `positions`: (T,), what is fed; `predict`: for each row in use the index of its last token.
    `begins`: of each prompt its tokens, its first row and how many rows it begins.
    `masks`: what attention makes once for all layers."""

    rows: Rows
    going: int
    begins: list[tuple[int, int, int]]
    ids: torch.Tensor
    positions: torch.Tensor
    predict: torch.Tensor
    longest: int  # tokens of the longest row that goes on, with the one that is fed
    masks: dict[Hashable, Any] = field(default_factory=dict)


def step_of(
    rows: Rows, last_tokens: Ids, prompts: Sequence[tuple[Ids, int]], device: torch.device | str
) -> Step:
    """The next pass: each row in use goes on by its last token, each prompt begins some rows behind them.

    The rows' lengths are those after the pass from here on."""
    going = len(rows.lengths)
    assert going == len(last_tokens)
    ids = list(last_tokens)
    positions = list(rows.lengths)
    predict = list(range(going))
    rows.lengths = [length + 1 for length in rows.lengths]
    longest = max(rows.lengths, default=0)
    begins: list[tuple[int, int, int]] = []
    for prompt, count in prompts:
        begins.append((len(prompt), len(rows.lengths), count))
        ids.extend(prompt)
        positions.extend(range(len(prompt)))
        predict.extend([len(ids) - 1] * count)
        rows.lengths.extend([len(prompt)] * count)
    assert len(rows.lengths) <= rows.count, "more rows than there are"
    rows.reserve(max(rows.lengths))
    fed = [torch.tensor(numbers, dtype=torch.long) for numbers in (ids, positions, predict)]
    moved = move_together(fed, torch.device(device))
    return Step(rows, going, begins, moved[0], moved[1], moved[2], longest)


def next_logits(decoder: nn.Module, head: Head, step: Step) -> torch.Tensor:
    """(rows, vocabulary) float32 logits of the token after the last one of each row in use.

    The model that the parts are of must be `attending` by DECODING."""
    # A mask of four dimensions is passed through as it is; the attention does not look at it.
    no_mask = torch.zeros(1, 1, 1, 1, device=step.ids.device)
    output = decoder(
        step.ids[None],
        position_ids=step.positions[None],
        attention_mask=no_mask,
        use_cache=False,
        packed=step,
    )
    return head.logits(output.last_hidden_state[0].index_select(0, step.predict))


def decoding_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed: Step | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface; `packed` is the step. The mask is ignored.

    Takes query (1, heads, T, d), key and value (1, kv heads, T, d); returns (1, T, heads, d). Raises
    NotImplementedError for what it does not do, as the packed attention does."""
    assert packed is not None, "the attention of sampling was called outside of next_logits"
    for name in NOT_DONE:
        if more.get(name) is not None:
            raise NotImplementedError(f"sampling with {name}")
    options = Options(scaling, dropout, sliding_window, softcap)
    number: Any = module.layer_idx
    keys, values = packed.rows.of_layer(number, key, value)
    going = packed.going
    outputs: list[torch.Tensor] = []
    if going:
        place = slice(0, going)
        _put(keys, key[:, :, place], packed)
        _put(values, value[:, :, place], packed)
        outputs.append(_go_on(query[:, :, place], keys, values, options, packed))
    repeats = query.shape[1] // key.shape[1]
    begin = going
    for length, row, count in packed.begins:
        place = slice(begin, begin + length)
        own_key = key[:, :, place]
        own_value = value[:, :, place]
        keys[row : row + count, :, :length] = own_key
        values[row : row + count, :, :length] = own_value
        own_key = repeat_heads(own_key, repeats)
        own_value = repeat_heads(own_value, repeats)
        outputs.append(attend(query[:, :, place], own_key, own_value, options, packed.masks))
        begin += length
    joined = torch.cat(outputs, 2)
    return joined.transpose(1, 2).contiguous(), None


AttentionInterface.register(DECODING, decoding_attention)


def _put(held: torch.Tensor, new: torch.Tensor, step: Step) -> None:
    """Write the key or value (1, kv heads, rows, d) of the token that each row goes on by into its row."""
    going = new.shape[2]
    every = torch.arange(going, device=new.device)
    held[every, :, step.positions[:going]] = new[0].transpose(0, 1)


def _go_on(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    options: Options,
    step: Step,
) -> torch.Tensor:
    """The attention of one token of each row over its row: (1, heads, rows, d), as the query is.

    The heads that share a key head are so many queries of it, so that no key is copied for them."""
    _, heads, rows, size = query.shape
    key_heads = keys.shape[1]
    by_row = query[0].transpose(0, 1)
    shared = by_row.reshape(rows, key_heads, heads // key_heads, size)
    seen_keys = keys[:rows, :, : step.longest]
    seen_values = values[:rows, :, : step.longest]
    mask = _row_mask(options.window, step)
    if options.softcap is not None:
        output = attend_capped(shared, seen_keys, seen_values, mask, options)
    else:
        key = ("added", options.window, query.dtype)
        if key not in step.masks:
            zeros = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
            step.masks[key] = zeros.masked_fill_(~mask, float("-inf"))
        output = F.scaled_dot_product_attention(
            shared,
            seen_keys,
            seen_values,
            attn_mask=step.masks[key],
            dropout_p=options.dropout,
            scale=options.scale,
        )
    return output.reshape(rows, heads, -1).transpose(0, 1)[None]


def _row_mask(window: int | None, step: Step) -> torch.Tensor:
    """(rows, 1, 1, longest) bool, True where the token that goes on sees a key of its row."""
    key = ("seen", window)
    if key not in step.masks:
        own = step.positions[: step.going, None]
        places = torch.arange(step.longest, device=own.device)
        seen = places <= own
        if window is not None:
            seen &= places > own - window
        step.masks[key] = seen[:, None, None]
    mask: torch.Tensor = step.masks[key]
    return mask


@torch.no_grad()
def token_bytes(model: PreTrainedModel) -> int:
    """Bytes of the keys and values of one token, of all layers, for a model that `decodes`."""
    decoder, head = decoder_and_head(model)
    rows = Rows(1)
    with attending(model, DECODING):
        next_logits(decoder, head, step_of(rows, [], [([0], 1)], head.weight.device))
    return rows.token_bytes()


@torch.no_grad()
def decodes(model: PreTrainedModel) -> bool:
    """True if a model gives its log-probs of the packed pass token after token, too.

    Two rows of different length are tried. The model must be packed: another one runs padded, in batches."""
    if model.config._attn_implementation != PACKED:
        return False
    decoder, head = decoder_and_head(model)
    shortest, more = _PROBE
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    if window > _LONGEST_WINDOW:
        window = 0
    draw = torch.Generator().manual_seed(11)
    texts: list[tuple[list[int], list[int]]] = []
    for length in (shortest, shortest + 2 + window):
        ids = torch.randint(0, head.vocabulary, (length + more,), generator=draw).tolist()
        texts.append((ids[:length], ids[length:]))
    device = head.weight.device
    try:
        wanted = token_logps(decoder, head, pack([(prompt, [rest]) for prompt, rest in texts], device))
        found = _logps_by_steps(model, texts)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # each family fails in its own way
        if is_of_network(error):
            raise
        _log.debug("a model does not go on token after token", exc_info=True)
        return False
    gaps = (found.flatten() - wanted).abs()
    spread = (wanted - wanted.mean()).abs().mean().item()
    dtype = str(head.weight.dtype).removeprefix("torch.")
    allowed = tolerance.self_test_gaps(dtype, spread)
    # Not `gap > allowed`: NaN must not pass.
    return gaps.mean().item() <= allowed.mean and gaps.max().item() <= allowed.largest


def _logps_by_steps(model: PreTrainedModel, texts: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
    """(texts, tokens) log-probs of what follows each prompt, of which all have equally many tokens."""
    decoder, head = decoder_and_head(model)
    rows = Rows(len(texts))
    prompts: list[tuple[Ids, int]] = [(prompt, 1) for prompt, _ in texts]
    last_tokens: list[int] = []
    columns: list[torch.Tensor] = []
    with attending(model, DECODING):
        for place in range(len(texts[0][1])):
            logits = next_logits(decoder, head, step_of(rows, last_tokens, prompts, head.weight.device))
            last_tokens = [rest[place] for _, rest in texts]
            targets = torch.tensor(last_tokens, device=logits.device)
            columns.append(-F.cross_entropy(logits, targets, reduction="none"))
            prompts = []
    return torch.stack(columns, 1)
