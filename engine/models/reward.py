"""A reward model: a sequence-classification model of transformers that gives logits for whole texts.

- Texts of like length go through one forward pass, padded on the right; equal texts are run once, so that
  they have equal scores.
- Models differ in how they find the end of a padded text. So after loading a self-test compares a padded
  batch with the same texts alone; a model that fails it is given texts of one length at a time.
- A head on a decoder takes the last token that is no padding. Where the model names no padding token, one is
  taken that ends none of the batch's texts.
"""

import functools
import inspect
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from engine.models.finite import check_scores
from engine.models.spec import ResolvedModel
from engine.progress import NO_PROGRESS, StageProgress
from engine.text.dialogues import Reading
from schemas import tolerance
from schemas.devices import batch_tokens
from schemas.forward.load import read_weights
from schemas.identity import check_unchanged
from schemas.manifest import Facts
from schemas.reward_checks import REWARD

_PROBE_LENGTHS = (5, 12, 8)  # of the self-test's texts
_log = logging.getLogger("prefmill")


class RewardModel:
    """Rates texts. Its weights are loaded at first use."""

    def __init__(
        self,
        model: ResolvedModel,
        place: str,
        planned: Facts | None = None,
        threads: int = 0,
    ):
        """The arguments are those of `engine.models.hf.HF`."""
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads or self._threads_before)
        self._resolved = model
        self._device = place
        self._planned = planned
        self._batch_tokens = batch_tokens(model.spec.batch_tokens, torch.device(place).type)

    @functools.cached_property
    def _model(self) -> PreTrainedModel:
        config = self._resolved.spec.config
        dtype = getattr(torch, config.dtype)
        path = self._resolved.identity.path
        model = read_weights(AutoModelForSequenceClassification, path, dtype, self._device)
        check_unchanged(config, self._planned, REWARD)
        return model.eval()

    @functools.cached_property
    def _takes_types(self) -> bool:
        """True if the model is told which of two texts a token is of."""
        return "token_type_ids" in inspect.signature(self._model.forward).parameters

    def close(self) -> None:
        """Give back memory, and torch's threads."""
        self.__dict__.pop("_model", None)
        torch.set_num_threads(self._threads_before)
        if self._device != "cpu":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def scores(self, texts: Sequence[Reading], progress: StageProgress = NO_PROGRESS) -> np.ndarray:
        """(N, labels) the float32 logits of each text. Raises UserError where one is not finite."""
        progress.want(len(texts))
        unique = list(dict.fromkeys(texts))
        times = dict.fromkeys(unique, 0)
        for text in texts:
            times[text] += 1
        logits_of: dict[Reading, np.ndarray] = {}
        for batch in _batches(unique, self._batch_tokens, self._pads):
            logits = self._logits(batch).cpu().numpy()
            logits_of.update(zip(batch, logits, strict=True))
            done = sum(times[text] for text in batch)
            progress.done(done, sum(len(text.ids) for text in batch))
        scores = np.stack([logits_of[text] for text in texts])
        check_scores(scores, self._resolved)
        return scores

    def _logits(self, texts: Sequence[Reading]) -> torch.Tensor:
        """(N, labels) float32: one forward pass."""
        config: Any = self._model.config.get_text_config()
        named = config.pad_token_id
        # Some models name -1, which is none.
        has_padding = named is not None and 0 <= named < config.vocab_size
        fill = named if has_padding else _fill(texts)
        inputs = _padded(texts, fill)
        if not self._takes_types:
            inputs.pop("token_type_ids", None)
        placed = {name: tensor.to(self._device) for name, tensor in inputs.items()}
        if not has_padding and len(texts) > 1:
            config.pad_token_id = fill  # a head on a decoder looks for it, and refuses a batch without
        try:
            logits: torch.Tensor = self._model(**placed).logits
        finally:
            config.pad_token_id = named
        return logits.float()

    @functools.cached_property
    def _pads(self) -> bool:
        """True if a padded text has its own score, by the self-test."""
        config: Any = self._model.config.get_text_config()
        draw = torch.Generator().manual_seed(7)
        texts: list[Reading] = []
        for length in _PROBE_LENGTHS:
            drawn = torch.randint(0, config.vocab_size, (2 * length,), generator=draw).tolist()
            plain = [token for token in drawn if token != config.pad_token_id]
            texts.append(Reading(tuple(plain[:length])))
        alone = torch.cat([self._logits([text]) for text in texts])
        try:
            gap = (self._logits(texts) - alone).abs().max().item()
        except (ValueError, RuntimeError, IndexError) as error:
            _log.debug("padding failed: %s", error)
            gap = float("inf")
        largest = max(1.0, alone.abs().max().item())
        allowed = tolerance.largest_gap(self._resolved.spec.config.dtype)
        # Weights that give NaN are told of when texts are scored.
        if gap <= allowed * largest or not alone.isfinite().all():
            return True
        _log.warning(
            "%s does not give a padded text its own score (%.2g off): texts of one length are run together, "
            "which is slower",
            type(self._model).__name__,
            gap,
        )
        return False


def _padded(texts: Sequence[Reading], fill: int) -> dict[str, torch.Tensor]:
    """(N, T) each: the texts side by side, `fill` to the right of the shorter ones."""
    width = max(len(text.ids) for text in texts)
    ids = torch.full((len(texts), width), fill)
    mask = torch.zeros_like(ids)
    types = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        length = len(text.ids)
        ids[row, :length] = torch.tensor(text.ids)
        mask[row, :length] = 1
        if text.types is not None:
            types[row, :length] = torch.tensor(text.types)
    inputs = {"input_ids": ids, "attention_mask": mask}
    # Only where the tokenizer tells them: GPT-2 would add the embedding of token 0 for a type of 0.
    if texts[0].types is not None:
        inputs["token_type_ids"] = types
    return inputs


def _fill(texts: Sequence[Reading]) -> int:
    """A token that ends none of the texts."""
    last = {text.ids[-1] for text in texts}
    return next(token for token in range(len(last) + 1) if token not in last)


def _batches(texts: Sequence[Reading], budget: int, pads: bool) -> list[list[Reading]]:
    """Texts by length in batches of at most `budget` tokens, padding included, or of a single text.

    Without `pads` those of a batch are of one length."""
    found: list[list[Reading]] = []
    for text in sorted(texts, key=lambda text: len(text.ids)):
        length = len(text.ids)
        fits = bool(found) and (len(found[-1]) + 1) * length <= budget
        if fits and (pads or len(found[-1][0].ids) == length):
            found[-1].append(text)
        else:
            found.append([text])
    return found
