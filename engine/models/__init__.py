"""The model: two verbs, token ids in and token ids out. hf.py and vllm/ implement it; open.py opens one.

A reward model has a verb of its own; reward.py implements it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.text import Text
from engine.text.dialogues import Reading
from schemas.sections import Sampling

Ids = Sequence[int]


@dataclass(frozen=True)
class Sample:
    """One sampled response.

    `ids`: its tokens, the stop token included where it came to one; `token_logps`: float32, the model's own
    log-prob of each before temperature, nat; `finish_reason`: stop or length."""

    ids: list[int]
    token_logps: np.ndarray
    finish_reason: str


def no_report(done: int) -> None:
    """For a caller who does not want to know how many responses are done."""


class Model(Protocol):
    """A loaded model. Several threads may call it."""

    @property
    def text(self) -> Text:
        """Its tokenizer and template."""
        ...

    def generate(
        self, prompts: Sequence[Ids], seeds: Sequence[Sequence[int]], sampling: Sampling
    ) -> list[list[Sample]]:
        """`sampling.n` samples of each prompt.

        Sample k of prompt i is a function of its ids and `seeds[i][k]`, never of the batch. It ends at a stop
        token, after `max_tokens`, or where the model's positions end; a prompt must leave room for one
        token."""
        ...

    def logprobs(self, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]]) -> list[list[np.ndarray]]:
        """The log-prob of every token of every response under its prompt: float32, nat."""
        ...

    def close(self) -> None:
        """Give back memory and processes; calls that are under way fail."""
        ...


class Rater(Protocol):
    """A loaded reward model, which rates whole texts."""

    def scores(self, texts: Sequence[Reading]) -> np.ndarray:
        """(N, labels) float32: the logits of each text. Raises UserError where one is not finite."""
        ...

    def close(self) -> None:
        """Give back memory."""
        ...
