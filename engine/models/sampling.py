"""Sampling on torch: a draw of each row by its own generator, over transformers' greedy `generate`.

argmax(log p + Gumbel noise) is a draw from p, so the noise is added to the scores and greedy decoding picks
the token. A sample then depends on its prompt and seed alone, never on what is beside it in the batch.
"""

import math
from collections.abc import Collection

import numpy as np
import torch
from transformers import LogitsProcessor

from engine.models import Sample
from engine.models.shaping import Shaping
from schemas.sections import Sampling

_REMOVED = float("-inf")  # the log-prob of a token that must not be drawn


class GumbelDraw(LogitsProcessor):
    """Shaping, temperature and the cuts of `keep_likely`, then noise; greedy decoding of that is the draw.

    `logps`: for each step (rows,) float32, the model's own log-prob of the token that is drawn in each row,
    before all of this."""

    def __init__(self, seeds: list[int], sampling: Sampling, shaping: Shaping | None = None):
        """`seeds`: one a row. `shaping`: of the logits, where the recipe asks for any."""
        # Noise is drawn on the CPU, so that a sample is the same whatever the device.
        self._generators: list[torch.Generator] = []
        for seed in seeds:
            generator = torch.Generator()
            generator.manual_seed(seed % 2**63)
            self._generators.append(generator)
        self._sampling = sampling
        self._shaping = shaping
        self.logps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(rows, vocabulary) scores to those whose argmax is the draw."""
        own = scores.float().log_softmax(-1)
        vocabulary = own.shape[1]
        shaped = own
        if self._shaping is not None:
            # Of the logits themselves: repetition_penalty goes by their sign.
            shaped = self._shaping(input_ids, scores.float())
        noisy = shaped
        if self._sampling.temperature > 0:
            tempered = (shaped / self._sampling.temperature).log_softmax(-1)
            likely = keep_likely(tempered, self._sampling)
            noise = self._gumbel_noise(vocabulary)
            noisy = likely.double() + noise.to(likely.device)
        drawn = noisy.argmax(-1, keepdim=True)
        logps = own.gather(1, drawn)
        self.logps.append(logps[:, 0])
        return noisy

    def _gumbel_noise(self, vocabulary: int) -> torch.Tensor:
        """(rows, vocabulary) float64, each row from its own generator."""
        rows: list[torch.Tensor] = []
        for generator in self._generators:
            row = torch.rand(vocabulary, generator=generator, dtype=torch.float64)
            rows.append(row)
        uniform = torch.stack(rows)
        above_zero = uniform.clamp_min(math.ulp(0.0))
        return -(-above_zero.log()).log()


def keep_likely(logps: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """(rows, vocabulary) log-probs cut as vLLM cuts them; the removed tokens are -inf.

    What stays is at least min_p times as likely as the likeliest token, of these the top_k likeliest, and of
    these the smallest set that reaches top_p."""
    if sampling.min_p > 0:
        likeliest = logps.max(-1, keepdim=True).values
        least = likeliest + math.log(sampling.min_p)
        logps = logps.masked_fill(logps < least, _REMOVED)
    if 0 < sampling.top_k < logps.shape[1]:
        top = logps.topk(sampling.top_k).values
        least = top[:, -1:]
        logps = logps.masked_fill(logps < least, _REMOVED)
    return keep_top_p(logps.log_softmax(-1), sampling.top_p)


def keep_top_p(logps: torch.Tensor, top_p: float) -> torch.Tensor:
    """Rows cut to the smallest set of likeliest tokens whose probability reaches top_p."""
    if top_p >= 1:
        return logps
    ordered, order = logps.sort(-1, descending=True)
    p = ordered.exp()
    p_before = p.cumsum(-1) - p
    removed_ordered = p_before >= top_p
    removed = removed_ordered.gather(-1, order.argsort(-1))
    return logps.masked_fill(removed, _REMOVED)


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
