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
# The keys that shape logits.
_KEYS = (
    "min_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "bad_words",
)

Ids = Sequence[int]


def shapes_logits(sampling: Sampling) -> bool:
    """True if a recipe does any of it."""
    return any(getattr(sampling, key) != getattr(_NEUTRAL, key) for key in _KEYS)


class Shaping:
    """The shaping of a batch's logits, a step at a time. Each row is shaped by its own tokens alone."""

    def __init__(
        self,
        sampling: Sampling,
        prompts: Sequence[Ids],
        stop_ids: Collection[int],
        bad_words: Sequence[Ids] = (),
    ):
        """`prompts`: one a row, not padded; `stop_ids`: all that end a sample; `bad_words`: as token ids."""
        self._sampling = sampling
        self._prompts = prompts
        self._width = max(map(len, prompts))
        self._stop_ids = sorted(stop_ids)
        self._bad_words = bad_words
        self._in_prompt = torch.empty(0, dtype=torch.bool)
        self._counts = torch.empty(0, dtype=torch.long)

    def __call__(self, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """(rows, vocabulary) float32 logits, shaped.

        `input_ids`: (rows, width) prompts, padded on the left, and all tokens that were drawn so far."""
        drawn = input_ids[:, self._width :]
        self._count(drawn, logits)
        sampling = self._sampling
        if self._bad_words:
            logits = mask_bad_words(logits, drawn, self._bad_words)
        if drawn.shape[1] < sampling.min_tokens:
            logits = logits.index_fill(1, self._on(self._stop_ids, logits), _MASKED)
        if sampling.logit_bias:
            tokens = list(map(int, sampling.logit_bias))
            biases = torch.tensor(list(sampling.logit_bias.values()), device=logits.device).float()
            logits = logits.index_add(1, self._on(tokens, logits), biases.expand(len(logits), -1))
        return penalise(logits, self._in_prompt, self._counts, sampling)

    def _count(self, drawn: torch.Tensor, logits: torch.Tensor) -> None:
        """Take the tokens drawn last into the counts, which begin with the first step."""
        if not drawn.shape[1]:
            self._counts = torch.zeros_like(logits, dtype=torch.long)
            self._in_prompt = torch.zeros_like(logits, dtype=torch.bool)
            for row, prompt in enumerate(self._prompts):
                self._in_prompt[row, self._on(list(prompt), logits)] = True
            return
        last = drawn[:, -1:]
        self._counts.scatter_add_(1, last, torch.ones_like(last))

    @staticmethod
    def _on(tokens: list[int], logits: torch.Tensor) -> Any:
        return torch.tensor(tokens, dtype=torch.long, device=logits.device)


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


def mask_bad_words(logits: torch.Tensor, drawn: torch.Tensor, bad_words: Sequence[Ids]) -> torch.Tensor:
    """(rows, vocabulary) logits in which the last token of a bad word is -inf where it would complete it.

    `drawn`: (rows, n) the tokens of each response so far."""
    longest = max(map(len, bad_words)) - 1
    ends = drawn[:, max(0, drawn.shape[1] - longest) :].tolist()
    masked = logits.clone()
    for row, end in enumerate(ends):
        for *beginning, last in bad_words:
            if not beginning or end[-len(beginning) :] == beginning:
                masked[row, last] = _MASKED
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
