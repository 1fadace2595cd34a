"""A model that is not loaded: it answers with words of its prompts, and log-probs that any model might give.

What it says is for the stages that come after it, whose rows and bytes depend on how much is said. `Watched`
stands before it, or before a real model, and counts what is asked.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.instructions import Question
from engine.models import Ids, Model, Rater, Sample
from engine.models.sharing import share
from engine.progress import NO_PROGRESS, StageProgress
from engine.questions import Answer
from engine.text import Text
from engine.text.dialogues import Reading
from schemas.model_content import read_json
from schemas.model_files import CONFIG
from schemas.reward_checks import labels_of
from schemas.sections import Sampling


@dataclass
class Asked:
    """What a stage asks of its model. `seconds`: that the model took, loading not among them; `processor`:
    the processor's seconds in these.

    `generated`: samples, of `generate_prompt_tokens` and `sampled_tokens`; a prompt is counted once for its
    samples. `scored`: responses, or passes of a judge's questions (several where its words are of several
    tokens), of `scored_tokens`: with those of a prompt once for its responses, and what questions begin alike
    with once; `unshared_tokens`: with all tokens of each sequence."""

    calls: int = 0
    generated: int = 0
    generate_prompt_tokens: int = 0
    sampled_tokens: int = 0
    scored: int = 0
    scored_tokens: int = 0
    unshared_tokens: int = 0
    seconds: float = 0.0
    processor: float = 0.0

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Count a call, and its time."""
        begin = time.perf_counter()
        begin_of_processor = time.process_time()
        yield
        self.seconds += time.perf_counter() - begin
        self.processor += time.process_time() - begin_of_processor
        self.calls += 1


def are_questions(responses: Sequence[Sequence[Ids]]) -> bool:
    """True where single tokens are asked about: a judge's marks."""
    lengths: set[int] = set()
    for group in responses:
        lengths.update(map(len, group))
    return lengths == {1} and any(len(group) > 1 for group in responses)


class Watched:
    """A model as a stage sees it; what is asked of it is added to an account."""

    def __init__(self, model: Model, asked: Asked):
        self._model = model
        self._asked = asked

    @property
    def text(self) -> Text:
        """The model's tokenizer and template."""
        return self._model.text

    def generate(
        self,
        prompts: Sequence[Ids],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: StageProgress = NO_PROGRESS,
    ) -> list[list[Sample]]:
        """The model's samples."""
        with self._asked.timed():
            samples = self._model.generate(prompts, seeds, sampling)
        self._asked.generate_prompt_tokens += sum(map(len, prompts))
        for of_prompt in samples:
            self._asked.generated += len(of_prompt)
            self._asked.sampled_tokens += sum(len(sample.ids) for sample in of_prompt)
        return samples

    def logprobs(
        self,
        prompts: Sequence[Ids],
        responses: Sequence[Sequence[Ids]],
        progress: StageProgress = NO_PROGRESS,
    ) -> list[list[np.ndarray]]:
        """The model's log-probs."""
        with self._asked.timed():
            logps = self._model.logprobs(prompts, responses)
        if are_questions(responses):
            self._count_questions(prompts)
        else:
            self._count_responses(prompts, responses)
        return logps

    def _count_questions(self, prompts: Sequence[Ids]) -> None:
        """All marks of a question are read in one pass of it."""
        self._asked.scored += len(prompts)
        self._asked.unshared_tokens += sum(map(len, prompts))
        for group in share(prompts):
            self._asked.scored_tokens += sum(len(prompts[member]) for member in group.members) - group.saved

    def _count_responses(self, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]]) -> None:
        for prompt, group in zip(prompts, responses, strict=True):
            of_responses = sum(map(len, group))
            self._asked.scored += len(group)
            self._asked.scored_tokens += len(prompt) + of_responses
            self._asked.unshared_tokens += len(prompt) * len(group) + of_responses

    def close(self) -> None:
        """Nothing: the model is another's."""


class WatchedRater:
    """The same of a reward model."""

    def __init__(self, model: Rater, asked: Asked):
        self._model = model
        self._asked = asked

    def scores(self, texts: Sequence[Reading], progress: StageProgress = NO_PROGRESS) -> np.ndarray:
        """The model's logits."""
        with self._asked.timed():
            scores = self._model.scores(texts)
        tokens = sum(len(text.ids) for text in texts)
        self._asked.scored += len(texts)
        self._asked.scored_tokens += tokens
        self._asked.unshared_tokens += tokens
        return scores

    def close(self) -> None:
        """Nothing: the model is another's."""


class StandIn:
    """Implements `engine.models.Model` without weights. `length`: tokens of what it says, the end included,
    or None for as many as it may; `positions`: that prompt and response may have together, 0 for no limit."""

    def __init__(self, text: Text, positions: int, length: int | None):
        self._text = text
        self._positions = positions
        self._length = length
        self._random = np.random.default_rng(0)

    @property
    def text(self) -> Text:
        """The real one."""
        return self._text

    def generate(
        self,
        prompts: Sequence[Ids],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: StageProgress = NO_PROGRESS,
    ) -> list[list[Sample]]:
        """Pieces of what the prompts say, one after another, each from a place that its seed settles."""
        special = set(self._text.tokenizer.all_special_ids)
        words: list[int] = []
        for prompt in prompts:
            words.extend(token for token in prompt if token not in special)
        words = words or [0]
        samples: list[list[Sample]] = []
        for prompt, of_prompt in zip(prompts, seeds, strict=True):
            length = min(self._length or sampling.max_tokens, sampling.max_tokens)
            if self._positions:
                length = min(length, self._positions - len(prompt))
            group: list[Sample] = []
            for seed in of_prompt:
                begin = seed % len(words)
                said = [words[(begin + place) % len(words)] for place in range(length - 1)]
                ids = [*said, self._text.end_id]
                group.append(Sample(ids, self._logps(len(ids)), "stop"))
            samples.append(group)
        return samples

    def logprobs(
        self,
        prompts: Sequence[Ids],
        responses: Sequence[Sequence[Ids]],
        progress: StageProgress = NO_PROGRESS,
    ) -> list[list[np.ndarray]]:
        """The words of a question share all of the probability; each other token has some."""
        logps: list[list[np.ndarray]] = []
        if not are_questions(responses):
            for group in responses:
                logps.append([self._logps(len(response)) for response in group])
            return logps
        for group in responses:
            shares = self._random.dirichlet([1.0] * len(group)).astype(np.float32) + 1e-6
            logps.append(np.split(np.log(shares), len(group)))
        return logps

    def _logps(self, count: int) -> np.ndarray:
        return -self._random.exponential(1.0, count).astype(np.float32)

    def close(self) -> None:
        """There is nothing to give back."""


class StandInJudge:
    """Answers a judge's questions with any probabilities, where not even a tokenizer is known."""

    def __init__(self, asked: Asked):
        self._asked = asked
        self._random = np.random.default_rng(0)

    def ask(self, questions: Sequence[Question], words: Sequence[str]) -> list[Answer]:
        """Any answers."""
        with self._asked.timed():
            shares = self._random.dirichlet([1.0] * len(words), len(questions))
        self._asked.scored += len(questions)
        return [Answer(list(map(float, share)), mass=1.0) for share in shares]


class StandInRater:
    """Implements `engine.models.Rater` without weights, for the model in a folder."""

    def __init__(self, path: Path):
        self._labels = len(labels_of(read_json(path / CONFIG)))
        self._random = np.random.default_rng(0)

    def scores(self, texts: Sequence[Reading], progress: StageProgress = NO_PROGRESS) -> np.ndarray:
        """Any numbers."""
        return self._random.normal(size=(len(texts), self._labels)).astype(np.float32)

    def close(self) -> None:
        """There is nothing to give back."""
