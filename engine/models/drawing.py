"""One batch of samples by transformers' `generate`: the draws of sampling.py, the ends of stopping.py."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria

from engine.models import Ids, Sample
from engine.models.sampling import GumbelDraw, cut_at_stop
from engine.models.shaping import Shaping, bad_word_ids, shapes_logits
from engine.models.stopping import StopStrings, all_stop_ids, with_said
from engine.text import Text
from schemas.forward.attention import own_attention
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
    ids, mask = _padded(prompts)
    stop_ids = all_stop_ids(text, sampling)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=stop_ids,
        pad_token_id=min(text.stop_ids),
        use_cache=True,
    )
    draw = GumbelDraw(seeds, sampling, _shaping(text, prompts, sampling, stop_ids))
    stop = _AtStopStrings(_stop_strings(text, sampling, len(prompts)), stop_ids)
    generating: Any = model  # transformers' types do not say that it has `generate`
    with _own_attention(model):
        generated = generating.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=config,
            logits_processor=[draw],
            stopping_criteria=[stop] if sampling.stop else [],
        )
    new_ids = generated[:, ids.shape[1] :].tolist()
    logps = torch.stack(draw.logps, 1).cpu().numpy()
    samples: list[Sample] = []
    for row, (row_ids, row_logps) in enumerate(zip(new_ids, logps, strict=True)):
        sample = stop.sample(row, row_ids, row_logps) or cut_at_stop(row_ids, row_logps, stop_ids)
        samples.append(sample)
    return with_said(samples, text)


def _shaping(text: Text, prompts: list[Ids], sampling: Sampling, stop_ids: list[int]) -> Shaping | None:
    """What the recipe does to the logits of these prompts; None where it does nothing."""
    if not shapes_logits(sampling):
        return None
    bad_words = bad_word_ids(text.tokenizer, sampling.bad_words)
    return Shaping(sampling, prompts, stop_ids, bad_words)


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


def _padded(prompts: list[Ids]) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, width) prompts padded on the left, and where they are not."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        begin = width - len(prompt)
        ids[row, begin:] = torch.tensor(prompt)
        mask[row, begin:] = 1
    return ids, mask


@contextlib.contextmanager
def _own_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model use its own attention: the packed one knows nothing of `generate`'s key-value cache."""
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = own_attention(model)
    try:
        yield
    finally:
        config._attn_implementation = before
