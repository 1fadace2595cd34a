"""One batch of samples by transformers' `generate`: the draws of sampling.py, the ends of stopping.py."""

from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, StoppingCriteria

from engine.models import Ids, Sample
from engine.models.sampling import cut_at_stop, draw
from engine.models.shaping import Shaping, bad_word_ids, shapes_logits
from engine.models.stopping import StopStrings, all_stop_ids, with_said
from engine.text import Text
from schemas.forward.generating import generating, padded_left
from schemas.sections import Sampling


def draw_batch(
    model: PreTrainedModel,
    text: Text,
    *,
    prompts: list[Ids],
    seeds: list[int],
    sampling: Sampling,
    max_tokens: int,
) -> list[Sample]:
    """One sample of each prompt by the seed at its place, all in one batch padded on the left."""
    ids, mask = padded_left(prompts)
    stop_ids = all_stop_ids(text, sampling)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=stop_ids,
        pad_token_id=min(text.stop_ids),
        use_cache=True,
    )
    shaping = shaping_of(text, sampling, stop_ids)
    if shaping is not None:
        for prompt in prompts:
            shaping.begin(prompt)
    draws = _Draws(seeds, sampling, shaping)
    stop = _AtStopStrings(_stop_strings(text, sampling, len(prompts)), stop_ids)
    drawing: Any = model  # transformers' types do not say that it has `generate`
    with generating(model):
        generated = drawing.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            logits_processor=[draws],
            stopping_criteria=[stop] if sampling.stop else [],
        )
    new_ids = generated[:, ids.shape[1] :].tolist()
    logps = torch.stack(draws.logps, 1).cpu().numpy()
    samples: list[Sample] = []
    for row, (row_ids, row_logps) in enumerate(zip(new_ids, logps, strict=True)):
        sample = stop.sample(row, row_ids, row_logps) or cut_at_stop(row_ids, row_logps, stop_ids)
        samples.append(sample)
    return with_said(samples, text)


def shaping_of(text: Text, sampling: Sampling, stop_ids: list[int]) -> Shaping | None:
    """What the recipe does to logits, without rows yet; None where it does nothing."""
    if not shapes_logits(sampling):
        return None
    return Shaping(sampling, stop_ids, bad_word_ids(text.tokenizer, sampling.bad_words))


class _Draws(LogitsProcessor):
    """Draws each step's tokens over transformers' greedy `generate`, which then picks what was drawn.

    `logps`: for each step (rows,) float32, as `sampling.draw` gives them."""

    def __init__(self, seeds: list[int], sampling: Sampling, shaping: Shaping | None):
        self._seeds = seeds
        self._sampling = sampling
        self._shaping = shaping
        self.logps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(rows, vocabulary) scores of which the largest is the token drawn."""
        logits = scores.float()
        shaped = logits
        if self._shaping is not None:
            if self.logps:
                self._shaping.add(input_ids[:, -1].tolist())
            shaped = self._shaping(logits)
        positions = [len(self.logps)] * len(self._seeds)
        tokens, logps = draw(logits, shaped, self._seeds, positions, self._sampling)
        self.logps.append(logps)
        return torch.zeros_like(logits).scatter_(1, tokens[:, None], 1.0)


def _stop_strings(text: Text, sampling: Sampling, rows: int) -> list[StopStrings]:
    """What looks for stop strings in each row; nothing where the recipe has none."""
    if not sampling.stop:
        return []
    return [StopStrings(text.tokenizer, sampling.stop, sampling.min_tokens) for _ in range(rows)]


class _AtStopStrings(StoppingCriteria):
    """Ends each row of a batch at its stop string."""

    def __init__(self, rows: list[StopStrings], stop_ids: list[int]):
        """`rows`: one a row, or none where there is no stop string."""
        self._rows = rows
        self._stop_ids = stop_ids
        self._is_over = [False] * len(rows)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        """(rows,) bool: which rows are over by now."""
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if not self._is_over[row]:
                self._is_over[row] = token in self._stop_ids or self._rows[row].add(token)
        return torch.tensor(self._is_over, device=input_ids.device)

    def sample(self, row: int, ids: list[int], logps: np.ndarray) -> Sample | None:
        """The row's sample, if a stop string ended it."""
        if not self._rows or self._rows[row].said is None:
            return None
        length = self._rows[row].length
        return Sample(ids[:length], logps[:length], "stop", self._rows[row].said)
