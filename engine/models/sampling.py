"""Sampling on torch: which token is drawn from a row of logits, and what the model itself gave it.

argmax(log p + Gumbel noise) is a draw from p. The noise is a function of (seed, position, token), so a sample
depends on its prompt and seed alone, never on what is beside it in the batch, and on every type of device it
is the same as far as the logits are.

Noise for each token of a vocabulary would cost more than a small model's forward pass. The largest of
log p + noise among some tokens is itself log(sum of their p) + Gumbel noise, and which of them it is does not
depend on it. So the draw is made twice by the same rule, which is exact: first among blocks of 256 tokens by
the log-sum of each, with noise by the block's number, then among the tokens of that block. A row of 49,152
takes 448 numbers. Where a seed comes to mean other tokens, engine/draws.py says so.

One uniform number and the inverse of the cumulated probabilities would take one number, but a sum over the
whole vocabulary is rounded in another way on each machine, and moves all tokens behind it.
"""

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from engine.models import Sample
from engine.models.noise import gumbel, keys_of
from schemas.sections import Sampling

_REMOVED = float("-inf")  # the log-prob of a token that must not be drawn
_BLOCK = 256  # tokens; part of what a seed means
_BLOCKS, _TOKENS = 0, 1  # streams of noise
_FIRST = 1024  # likeliest tokens among which the end of top_p is looked for before all are sorted


def draw(
    logits: torch.Tensor,
    shaped: torch.Tensor,
    seeds: Sequence[int],
    positions: Sequence[int],
    sampling: Sampling,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token of each row, and its log-prob by the model itself: (rows,) int64 and (rows,) float32.

    `logits`: (rows, vocabulary) float32, the model's; `shaped`: what the recipe made of them, from which is
    drawn at its temperature and by its cuts; `seeds`, `positions`: of each row, the latter counted from the
    response's first token."""
    if sampling.temperature == 0:
        tokens = shaped.argmax(-1)
    else:
        tempered = shaped if sampling.temperature == 1 else shaped / sampling.temperature
        keys = keys_of(seeds, logits.device)
        places = torch.tensor(positions, dtype=torch.long, device=logits.device)
        tokens = draw_tokens(keep_likely(tempered, sampling), keys, places)
    likeliest = logits.amax(-1, keepdim=True)
    total = (logits - likeliest).exp_().sum(-1).log_()
    logps = (logits.gather(1, tokens[:, None]) - likeliest)[:, 0] - total
    return tokens, logps


def draw_tokens(logits: torch.Tensor, keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(rows,) int64: a token of each row of (rows, vocabulary) logits, by the row's noise.

    `keys`: (rows, 2) of `noise.keys_of`; `positions`: (rows,) int64."""
    rows, vocabulary = logits.shape
    blocks = -(-vocabulary // _BLOCK)
    missing = blocks * _BLOCK - vocabulary
    if missing:
        logits = F.pad(logits, (0, missing), value=_REMOVED)
    blocked = logits.view(rows, blocks, _BLOCK)
    numbers = torch.arange(blocks, device=logits.device)
    noisy_blocks = blocked.logsumexp(-1).double() + gumbel(keys, positions, numbers, _BLOCKS)
    block = noisy_blocks.argmax(-1)
    of_block = blocked[torch.arange(rows, device=logits.device), block]
    tokens = block[:, None] * _BLOCK + torch.arange(_BLOCK, device=logits.device)
    noisy = of_block.double() + gumbel(keys, positions, tokens, _TOKENS)
    return block * _BLOCK + noisy.argmax(-1)


def keep_likely(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """(rows, vocabulary) logits cut as vLLM cuts them; the removed tokens are -inf.

    What stays is at least min_p times as likely as the likeliest token, of these the top_k likeliest, and of
    these the smallest set that reaches top_p. Of tokens that are equally likely all stay or none."""
    if sampling.min_p > 0:
        likeliest = logits.amax(-1, keepdim=True)
        least = likeliest + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < least, _REMOVED)
    if 0 < sampling.top_k < logits.shape[1]:
        top = logits.topk(sampling.top_k).values
        least = top[:, -1:]
        logits = logits.masked_fill(logits < least, _REMOVED)
    if sampling.top_p < 1:
        logits = keep_top_p(logits.log_softmax(-1), sampling.top_p)
    return logits


def keep_top_p(logps: torch.Tensor, top_p: float) -> torch.Tensor:
    """Rows cut to the smallest set of likeliest tokens whose probability reaches top_p, top_p < 1.

    Tokens that are as likely as the last of them stay too: sorting has no order among them."""
    width = min(_FIRST, logps.shape[1])
    least, reached = _least_kept(logps.topk(width).values, top_p)
    if width < logps.shape[1]:
        # Row by row: what a row is cut to must not depend on how flat another one is.
        (flat,) = torch.nonzero(~reached, as_tuple=True)
        if len(flat):
            least[flat], _ = _least_kept(logps[flat].sort(-1, descending=True).values, top_p)
    return logps.masked_fill(logps < least, _REMOVED)


def _least_kept(ordered: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, 1) log-probs of the last token that stays, and (rows,) bool, whether top_p is reached there.

    `ordered`: (rows, n) log-probs of the likeliest tokens, in their order."""
    p = ordered.double().exp()
    cumulated = p.cumsum(-1)
    kept = (cumulated - p < top_p).sum(-1, keepdim=True).clamp_min(1)
    return ordered.gather(-1, kept - 1), cumulated[:, -1] >= top_p


def cut_at_stop(
    ids: list[int],
    logps: np.ndarray,
    stop_ids: Collection[int],
) -> Sample:
    """A generated row up to its stop token, which is part of the sample."""
    length = min(len(ids), len(logps))
    finish_reason = "length"
    for index, token in enumerate(ids):
        if token in stop_ids:
            length = index + 1
            finish_reason = "stop"
            break
    return Sample(ids[:length], logps[:length], finish_reason)
