"""What a recipe does to the logits before temperature, on torch: masks, biases and penalties.

As vLLM does it (v1/sample/sampler.py), and in its order: bad words and, before min_tokens, all end tokens are
masked; logit_bias is added; repetition_penalty goes by the tokens of prompt and response; frequency_penalty
and presence_penalty by those of the response.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch

from schemas.sections import Sampling

_MASKED = float("-inf")
_NEUTRAL = Sampling()
_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
# The keys that shape logits.
_KEYS = (*_PENALTIES, "min_tokens", "logit_bias", "bad_words")

Ids = Sequence[int]


def shapes_logits(sampling: Sampling) -> bool:
    """True if a recipe does any of it."""
    return any(getattr(sampling, key) != getattr(_NEUTRAL, key) for key in _KEYS)


class Shaping:
    """The shaping of the logits of some rows, a step at a time. Each row is shaped by its own tokens alone.

    A row begins with a prompt; its tokens are given one after another. What is shaped are the first rows."""

    def __init__(
        self,
        sampling: Sampling,
        stop_ids: Collection[int],
        bad_words: Sequence[Ids] = (),
    ):
        """`stop_ids`: all that end a sample; `bad_words`: as token ids."""
        self._sampling = sampling
        self._stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.long)
        self._bad_words = bad_words
        self._biased = torch.tensor(list(map(int, sampling.logit_bias)), dtype=torch.long)
        self._biases = torch.tensor(list(sampling.logit_bias.values())).float()
        self._penalises = any(getattr(sampling, key) != getattr(_NEUTRAL, key) for key in _PENALTIES)
        self._drawn: list[list[int]] = []
        self._prompts: list[Ids] = []
        # (rows, vocabulary) of the rows whose logits were seen: bool and int32.
        self._in_prompt = torch.empty(0, 0, dtype=torch.bool)
        self._counts = torch.empty(0, 0, dtype=torch.int32)

    def begin(self, prompt: Ids) -> None:
        """One more row, behind the others; `prompt` is not padded."""
        self._prompts.append(prompt)
        self._drawn.append([])

    def add(self, tokens: Sequence[int]) -> None:
        """The token that was drawn in each row."""
        for drawn, token in zip(self._drawn, tokens, strict=True):
            drawn.append(token)
        if self._penalises:
            rows = torch.arange(len(tokens), device=self._counts.device)
            self._counts[rows, _on(tokens, self._counts)] += 1

    def end(self, row: int) -> None:
        """A row is over; the last one takes its place."""
        self._prompts[row] = self._prompts[-1]
        self._prompts.pop()
        self._drawn[row] = self._drawn[-1]
        self._drawn.pop()
        if self._penalises:
            self._in_prompt[row] = self._in_prompt[-1]
            self._in_prompt = self._in_prompt[:-1]
            self._counts[row] = self._counts[-1]
            self._counts = self._counts[:-1]

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """(rows, vocabulary) float32 logits, shaped; one row for each that began and is not over."""
        assert len(logits) == len(self._drawn), "logits of other rows than those that are drawn"
        sampling = self._sampling
        self._go_to(logits.device)
        if self._bad_words:
            logits = mask_bad_words(logits, self._drawn, self._bad_words)
        short = [row for row, drawn in enumerate(self._drawn) if len(drawn) < sampling.min_tokens]
        if short:
            logits = logits.clone()
            logits[_on(short, logits)[:, None], self._stop_ids] = _MASKED
        if sampling.logit_bias:
            logits = logits.index_add(1, self._biased, self._biases.expand(len(logits), -1))
        if not self._penalises:
            return logits
        self._count_from_here(logits)
        return penalise(logits, self._in_prompt, self._counts, sampling)

    def _go_to(self, device: torch.device) -> None:
        """Bring what is the same at every step to the device, once."""
        if self._biased.device != device:
            self._stop_ids = self._stop_ids.to(device)
            self._biased = self._biased.to(device)
            self._biases = self._biases.to(device)

    def _count_from_here(self, logits: torch.Tensor) -> None:
        """Take in the rows that began since the last step."""
        seen = len(self._counts)
        if seen == len(logits):
            return
        in_prompt = torch.zeros_like(logits, dtype=torch.bool)
        counts = torch.zeros_like(logits, dtype=torch.int32)
        if seen:
            in_prompt[:seen] = self._in_prompt
            counts[:seen] = self._counts
        for row in range(seen, len(logits)):
            in_prompt[row, _on(self._prompts[row], logits)] = True
        self._in_prompt = in_prompt
        self._counts = counts


def _on(numbers: Ids, like: torch.Tensor) -> torch.Tensor:
    """Token ids, or rows, on the device of another tensor."""
    return torch.tensor(list(numbers), dtype=torch.long, device=like.device)


def penalise(
    logits: torch.Tensor, in_prompt: torch.Tensor, counts: torch.Tensor, sampling: Sampling
) -> torch.Tensor:
    """(rows, vocabulary) logits with the three penalties.

    `in_prompt`: bool, whether a row's prompt has the token; `counts`: how often its response has it."""
    if sampling.repetition_penalty != 1:
        penalty = torch.full_like(logits, sampling.repetition_penalty)
        seen = in_prompt | (counts > 0)
        scale = torch.where(logits > 0, 1 / penalty, penalty)
        logits = torch.where(seen, logits * scale, logits)
    if sampling.frequency_penalty:
        logits = logits - sampling.frequency_penalty * counts
    if sampling.presence_penalty:
        logits = logits - sampling.presence_penalty * (counts > 0)
    return logits


def mask_bad_words(
    logits: torch.Tensor, drawn: Sequence[list[int]], bad_words: Sequence[Ids]
) -> torch.Tensor:
    """(rows, vocabulary) logits in which the last token of a bad word is -inf where it would complete it.

    `drawn`: the tokens of each row's response so far."""
    rows: list[int] = []
    tokens: list[int] = []
    for row, said in enumerate(drawn):
        for *beginning, last in bad_words:
            if not beginning or said[-len(beginning) :] == beginning:
                rows.append(row)
                tokens.append(last)
    if not rows:
        return logits
    places = _on([*rows, *tokens], logits).view(2, -1)
    masked = logits.clone()
    masked[places[0], places[1]] = _MASKED
    return masked


def bad_word_ids(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    """Bad words as token ids, each as it begins a text and as it follows a space.

    As vLLM finds them (SamplingParams.update_from_tokenizer), which leaves the second one out where it has
    another number of tokens than the first: the word would then be drawn within a text."""
    found: list[list[int]] = []
    for word in dict.fromkeys(words):
        bare = tokenizer.encode(word.lstrip(), add_special_tokens=False)
        spaced = tokenizer.encode(" " + word.lstrip(), add_special_tokens=False)
        if bare:
            found.append(bare)
        # Not where it is the first one behind a token of its own for the space.
        if spaced[-len(bare) :] != bare:
            found.append(spaced)
    return found
