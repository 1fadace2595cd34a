"""The sections that make scores: [check], [judge] and [prompt_gain]."""

from dataclasses import dataclass
from typing import Any

from schemas import checks
from schemas.errors import UserError
from schemas.fields import Section, choices, number, path, tables


@dataclass(frozen=True)
class Check(Section):
    """Scores by a function: an exact checker, a reward model of your own. Its scorer is `check`."""

    # package.module:name or path/file.py:name; name(messages, response) -> a number, or None where it has
    # no opinion.
    function: str = path("", function=True, check=checks.function)


@dataclass(frozen=True)
class Judge(Section):
    """Scores by a model, asked by a file of pipelines/prompts (without .txt) or by one of your own."""

    # rating: one mark a response, scorer `rating`; pairwise: every two responses against each other in both
    # orders, scorer `pairwise`.
    kinds: tuple[str, ...] = choices(("rating",), "rating", "pairwise")
    # They begin the answer ("Rating: "), as chat models do; judge_rating_bare and judge_pairwise_bare do not.
    rating_prompt: str = path("judge_rating", "prompts", ".txt")
    pairwise_prompt: str = path("judge_pairwise", "prompts", ".txt")
    # The marks: every number from low to high.
    low: int = number(1, low=0, high=100)
    high: int = number(5, low=0, high=100)
    # A mark is the mean over the marks' probabilities among themselves; the column `mass` keeps what they
    # have together. Below min_mass they say nothing: the score is null, the judge's words are kept.
    min_mass: float = number(0.01, low=0, high=1)
    # Above 0: the judge thinks first, in so many tokens at most. Its thoughts are kept in scores.answer.
    think: int = number(0, low=0)
    # Rules to judge by, for the files' {{ rubric }}: a text file, or one of pipelines/prompts without .txt.
    rubric: str = path("", "prompts", ".txt")
    model: str = path("")  # another model than [model]
    # [judge.template_arguments]: as [model.template_arguments], over those where the model is [model]'s.
    template_arguments: dict[str, Any] = tables(check=checks.template_arguments)

    def check(self) -> None:
        if not self.low < self.high:
            raise UserError(
                f"[judge] low = {self.low}, high = {self.high}: expected the first below the second"
            )


@dataclass(frozen=True)
class PromptGain(Section):
    """Scores by log-probs: how much the quality prompt raises a response's likelihood."""
