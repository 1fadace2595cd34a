"""The four jobs of a sandbox model: to answer, to answer well when told to, to rate, to rewrite.

- A job is a function from a random generator to one training example, in one of the two worlds.
- The prompts come from the very files in pipelines/prompts that real models are asked with.
"""

import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.edits import common_prefix
from engine.instructions import Instruction, quality_text, under

CARELESS_SHARE = 0.38  # of the plain answers that the model learns from


@dataclass(frozen=True)
class Example:
    """What the user says and what the assistant responds.

    If the prompt asks to rate another response, `rated_from` is the character of the prompt where that
    response begins, and `wrong_from` the one from which it is wrong: its end if it is cut off, None if it is
    right.
    """

    prompt: str
    response: str
    rated_from: int | None = None
    wrong_from: int | None = None


Job = Callable[[random.Random], Example]


class World(Protocol):
    """What a job asks of a world; the modules world and market are such."""

    MANNERS: int

    def problem(self, draw: random.Random) -> Any:
        """A problem, whose str() is the prompt; it has steps() and answer()."""

    def careless(self, found: Any, draw: random.Random) -> Sequence[Any]:
        """Its steps with a slip."""

    def write(self, found: Any, steps: Any, manner: int) -> str:
        """Steps as a response."""

    def said(self, response: str) -> int | None:
        """The answer that a response comes to."""

    def right_steps(self, found: Any, response: str) -> float:
        """The share of its steps that are right."""


@dataclass(frozen=True)
class Jobs:
    """The jobs in one world."""

    world: World

    def answering(self, draw: random.Random) -> Example:
        """A plain answer; a CARELESS_SHARE of them have a slip."""
        problem = self.world.problem(draw)
        steps = problem.steps()
        if draw.random() < CARELESS_SHARE:
            steps = self.world.careless(problem, draw)
        manner = self._random_manner(draw)
        response = self.world.write(problem, steps, manner)
        return Example(str(problem), response)

    def answering_well(self, draw: random.Random) -> Example:
        """An answer under the quality prompt; all are right."""
        problem = self.world.problem(draw)
        messages = [{"role": "user", "content": str(problem)}]
        quality_prompt = quality_text("quality")
        prompt = under(messages, quality_prompt)[0]["content"]
        manner = self._random_manner(draw)
        response = self._right_response(problem, manner)
        return Example(prompt, response)

    def rating(self, draw: random.Random) -> Example:
        """A mark for a response: 5 if it is right, else 1 to 3 by the share of right steps before the slip.

        45 % of the responses are right, 45 % have a slip, 5 % answer another problem and 5 % are cut off. The
        last two kinds get a 1.
        """
        problem = self.world.problem(draw)
        manner = self._random_manner(draw)
        kind = draw.random()
        right_response = self._right_response(problem, manner)
        rated = right_response
        if kind >= 0.95:
            half = len(right_response) // 2
            rated = right_response[: draw.randrange(half)]
        elif kind >= 0.9:
            other = self.world.problem(draw)
            rated = self._right_response(other, manner)
        elif kind > 0.45:
            rated = self._careless_response(problem, manner, draw)

        right_share = self.world.right_steps(problem, rated)
        is_answer_right = self.world.said(rated) == problem.answer()
        is_right = is_answer_right and right_share == 1
        mark = 1
        if is_right:
            mark = 5
        elif kind < 0.9:
            mark = 1 + math.floor(3 * right_share)

        prompt = _instruction_text("judge_rating_bare", conversation=str(problem), response=rated)
        heading = "Response:\n"
        rated_from = prompt.rindex(heading) + len(heading)
        wrong_from = None
        if not is_right:
            wrong_from = rated_from + common_prefix(right_response, rated)
        return Example(
            prompt=prompt,
            response=str(mark),
            rated_from=rated_from,
            wrong_from=wrong_from,
        )

    def rewriting(self, draw: random.Random) -> Example:
        """The draft in its own manner with the slip corrected; one draft in ten has none and stays."""
        problem = self.world.problem(draw)
        manner = self._random_manner(draw)
        right_response = self._right_response(problem, manner)
        draft = right_response
        if draw.random() < 0.9:
            draft = self._careless_response(problem, manner, draw)
        reference_manner = self._random_manner(draw)
        reference = self._right_response(problem, reference_manner)
        prompt = _instruction_text(
            "rewrite_maths",
            conversation=str(problem),
            rejected=draft,
            chosen=reference,
        )
        return Example(prompt, right_response)

    def _random_manner(self, draw: random.Random) -> int:
        return draw.randrange(self.world.MANNERS)

    def _right_response(self, problem: Any, manner: int) -> str:
        return self.world.write(problem, problem.steps(), manner)

    def _careless_response(self, problem: Any, manner: int, draw: random.Random) -> str:
        steps = self.world.careless(problem, draw)
        return self.world.write(problem, steps, manner)


@functools.cache
def _instruction(name: str) -> Instruction:
    return Instruction(name)


def _instruction_text(name: str, **values: str) -> str:
    """What the user says when the instruction of that name is filled with these values."""
    messages = _instruction(name)(**values)
    return messages[0]["content"]
