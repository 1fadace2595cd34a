"""The model: two verbs, token ids in and token ids out. hf.py and vllm/ implement it; open.py opens one.

A reward model has a verb of its own; reward.py implements it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.progress import NO_PROGRESS, StageProgress
from engine.text import Text
from engine.text.dialogues import Reading
from schemas.sections import Sampling

Ids = Sequence[int]


@dataclass(frozen=True)
class Sample:
    """One sampled response.

    `ids`: its tokens, the stop token included where it came to one; `token_logps`: float32, the model's own
    log-prob of each before temperature, penalties and biases, nat; `finish_reason`: stop or length.

    `said`: its text, where a stop string or a stop token of the recipe ended it: the ids, which hold that
    too, do not end with the model's end token and say more than it. None: its ids are what it says."""

    ids: list[int]
    token_logps: np.ndarray
    finish_reason: str
    said: str | None = None


class Model(Protocol):
    """A loaded model. Several threads may call it. `progress` is told how far a call is."""

    @property
    def text(self) -> Text:
        """Its tokenizer and template."""
        ...

    def generate(
        self,
        prompts: Sequence[Ids],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: StageProgress = NO_PROGRESS,
    ) -> list[list[Sample]]:
        """`sampling.n` samples of each prompt.

        Sample k of prompt i is a function of its ids and `seeds[i][k]`, never of the batch. It ends at a stop
        token, at a stop string, after `max_tokens`, or where the model's positions end; a prompt must leave
        room for one token."""
        ...

    def logprobs(
        self,
        prompts: Sequence[Ids],
        responses: Sequence[Sequence[Ids]],
        progress: StageProgress = NO_PROGRESS,
    ) -> list[list[np.ndarray]]:
        """The log-prob of every token of every response under its prompt: float32, nat."""
        ...

    def close(self) -> None:
        """Give back memory and processes; calls that are under way fail."""
        ...


class Rater(Protocol):
    """A loaded reward model, which rates whole texts."""

    def scores(self, texts: Sequence[Reading], progress: StageProgress = NO_PROGRESS) -> np.ndarray:
        """(N, labels) float32: the logits of each text. Raises UserError where one is not finite."""
        ...

    def close(self) -> None:
        """Give back memory."""
        ...
