"""Questions to a model that it answers with one word, read from the probabilities of its first token.

- A word is not sampled. One forward pass of the question gives the probability of every word that may come
  first, so the whole distribution is known.
- Several tokens may begin an answer with the same word (with and without a space): they are added up.
- Where the words together have less than `min_mass` of the probability, the model gave no answer. What it
  says instead is kept, up to 24 tokens of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.models import Ids, Model
from engine.rejects import Reject, fit_prompts
from engine.text import Messages
from schemas.sections import Sampling

# How an answer that is none of the words is sampled.
_OTHER_ANSWER = Sampling(temperature=0.0, max_tokens=24)


@dataclass
class Answer:
    """The answer to one question.

    `probabilities`: of the words among themselves, in their order; None where the model gave no answer.
    `mass`: the probability that its first token is one of the words at all. `other`: what it says in place of
    one. `unfit`: why it could not be asked; the reject's row is the question's place."""

    probabilities: list[float] | None = None
    mass: float | None = None
    other: str | None = None
    unfit: Reject | None = None


@dataclass(frozen=True)
class Asker:
    """Asks a model. `positions` are the tokens of question and answer that it takes, 0 for no limit."""

    model: Model
    positions: int
    min_mass: float

    def ask(
        self,
        questions: Sequence[Messages],
        words: Sequence[str],
    ) -> list[Answer]:
        """The answer to each question. Raises UserError where a word is not a single token of the model."""
        text = self.model.text
        prompts, rejects = fit_prompts(text.prompts(questions), self.positions)
        answers = [Answer() for _ in questions]
        for reject in rejects:
            answers[reject.row].unfit = reject
        masses = self._masses(list(prompts.values()), words)
        unclear: dict[int, Ids] = {}
        for number, masses_by_word in zip(prompts, masses, strict=True):
            answer = answers[number]
            total = masses_by_word.sum()
            answer.mass = float(total)
            is_clear = answer.mass >= self.min_mass  # False for NaN
            if not is_clear:
                unclear[number] = prompts[number]
            elif total > 0:
                shares = masses_by_word / total
                answer.probabilities = shares.tolist()
        other_answers = self._other_answers(list(unclear.values()))
        for number, other in zip(unclear, other_answers, strict=True):
            answers[number].other = other
        return answers

    def _masses(
        self,
        prompts: Sequence[Ids],
        words: Sequence[str],
    ) -> list[np.ndarray]:
        """For each prompt the probability of each word as the first of the answer: float64 (words,)."""
        model = self.model
        first_tokens: list[Ids] = []
        ends: list[int] = []
        for word in words:
            for token in model.text.single_ids(word):
                first_tokens.append([token])
            ends.append(len(first_tokens))
        responses = [first_tokens] * len(prompts)
        logps_by_prompt = model.logprobs(prompts, responses)
        masses: list[np.ndarray] = []
        for token_logps in logps_by_prompt:
            logps = np.concatenate(token_logps)
            probabilities = np.exp(logps.astype(np.float64))
            masses_by_word: list[float] = []
            for tokens_of_word in np.split(probabilities, ends[:-1]):
                mass = tokens_of_word.sum()
                masses_by_word.append(mass)
            masses.append(np.array(masses_by_word))
        return masses

    def _other_answers(self, prompts: Sequence[Ids]) -> list[str]:
        """What the model says to each prompt."""
        if not prompts:
            return []
        seeds = [[0]] * len(prompts)
        samples = self.model.generate(prompts, seeds, _OTHER_ANSWER)
        token_ids: list[Ids] = []
        for (sample,) in samples:
            token_ids.append(sample.ids)
        return self.model.text.decode(token_ids)
