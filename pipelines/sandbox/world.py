"""The sandbox world: word problems in plain English with step-by-step solutions, and a checker that knows the truth.

    Ada has 4 bags of 6 shells each. She finds 7 more. Then she gives away 5. How many shells does Ada have now?
    First 4 x 6 = 24 shells. Then 24 + 7 = 31. Then 31 - 5 = 26. The answer is 26.

A solution is written in one of several manners and may have a slip: a wrong sum, a wrong sign, a number copied wrongly. What follows a slip
follows from it, so that a slip spoils the answer and little else. Everything is a function of a seed, and the checker reads the text alone:
the true reward of any response, by whoever it is, is known.

    python -m pipelines.sandbox.world COUNT SEED > prompts.jsonl        prompts alone
"""

import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from schemas.commands import printing_for_a_reader
from schemas.screen import say

_NAMES = {"Ada": "she", "Ben": "he", "Cleo": "she", "Dan": "he", "Eva": "she", "Finn": "he", "Gia": "she", "Hugo": "he", "Ines": "she", "Jon": "he", "Mia": "she", "Noah": "he"}
_THINGS = ("apples", "books", "coins", "marbles", "pencils", "shells", "stamps", "stones")
_HOLDERS = ("bags", "boxes", "bowls", "rows")
_MORE = ("buys", "finds", "gets", "wins")
_LESS = ("breaks", "loses", "sells", "gives away")
# What goes wrong, and how often: a story is misread more easily than a sum is got wrong.
_SLIPS, _SHARES = ("sign", "copy", "sum"), (5, 3, 2)
_SIGN = {verb: "+" for verb in _MORE} | {verb: "-" for verb in _LESS}


@dataclass(frozen=True)
class Step:
    """a sign b = result."""

    a: int
    sign: str
    b: int
    result: int

    def __str__(self) -> str:
        return f"{self.a} {self.sign} {self.b} = {self.result}"


@dataclass(frozen=True)
class Problem:
    """`first` is what there is at the start: one number, or holders times each; `events` are verbs with their numbers."""

    name: str
    thing: str
    first: tuple[int, ...]
    holder: str
    events: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        she = _NAMES[self.name]
        have = f"{self.first[0]} {self.thing}" if len(self.first) == 1 else f"{self.first[0]} {self.holder} of {self.first[1]} {self.thing} each"
        told = [f"{self.name} has {have}."]
        for number, (verb, b) in enumerate(self.events):
            told.append(f"{'Then ' + she if number else she.capitalize()} {verb} {b}{' more' if _SIGN[verb] == '+' else ''}.")
        return f"{' '.join(told)} How many {self.thing} does {self.name} have now?"

    def steps(self, slip: tuple[int, str] | None = None, draw: random.Random | None = None) -> list[Step]:
        """The steps to the answer; with `slip` (number of the step, its kind) one of them goes wrong, and the next go on from there."""
        wanted = [(self.first[0], "x", self.first[1])] if len(self.first) > 1 else []
        at = self.first[0] if not wanted else None
        wanted += [(None, _SIGN[verb], b) for verb, b in self.events]
        steps: list[Step] = []
        for number, (a, sign, b) in enumerate(wanted):
            a = at if a is None else a
            kind = slip[1] if slip and slip[0] == number else None
            steps.append(_slipped(a, sign, b, kind, draw))
            at = steps[-1].result
        return steps

    def answer(self) -> int:
        return self.steps()[-1].result


def _value(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def _slipped(a: int, sign: str, b: int, kind: str | None, draw: random.Random | None) -> Step:
    if kind is None or draw is None:
        return Step(a, sign, b, _value(a, sign, b))
    if kind == "sign":
        sign = {"+": "-", "-": "+", "x": "+"}[sign]
    elif kind == "copy":
        b = draw.choice([other for other in range(2, 10) if other != b])
    right = _value(a, sign, b)
    if kind != "sum":
        return Step(a, sign, b, right)
    return Step(a, sign, b, draw.choice([wrong for gap in (1, 2, 10) for wrong in (right - gap, right + gap) if wrong > 0]))


def problem(draw: random.Random) -> Problem:
    """A problem whose every number on the way lies between 1 and 99."""
    while True:
        many = draw.random() < 0.4
        first = (draw.randint(2, 9), draw.randint(2, 9)) if many else (draw.randint(5, 40),)
        events = [(draw.choice(_MORE + _LESS), draw.randint(2, 9)) for _ in range(draw.choice((1, 2)) if many else draw.choice((2, 3)))]
        found = Problem(draw.choice(list(_NAMES)), draw.choice(_THINGS), first, draw.choice(_HOLDERS), tuple(events))
        if all(0 < step.result < 100 for step in found.steps()):
            return found


def careless(found: Problem, draw: random.Random) -> list[Step]:
    """The steps with one slip, by which the answer is wrong and still a number from 1 to 99."""
    right = found.steps()
    while True:
        steps = found.steps((draw.randrange(len(right)), draw.choices(_SLIPS, _SHARES)[0]), draw)
        if steps[-1].result != right[-1].result and all(0 < step.result < 100 for step in steps):
            return steps


MANNERS = 6


def write(found: Problem, steps: list[Step], manner: int) -> str:
    """A solution in one of MANNERS manners: the same steps in other words."""
    she, end = _NAMES[found.name], f"The answer is {steps[-1].result}."
    moves = [] if len(found.first) == 1 else [("has", 0)]
    moves += found.events
    if manner == 0:
        return " ".join([f"{'Then' if number else 'First'} {step}." for number, step in enumerate(steps)] + [end])
    if manner == 1:
        return " ".join([f"{she.capitalize()} {verb} {step.b if verb != 'has' else found.thing}, so {step}." for (verb, _), step in zip(moves, steps, strict=True)] + [end])
    if manner == 2:
        return f"{found.name} has " + ", and then ".join(map(str, steps)) + f" {found.thing}. {end}"
    if manner == 3:
        return "Let us count the " + found.thing + ": " + "; ".join(map(str, steps)) + ". " + end
    if manner == 4:
        return " ".join([f"Step {number}: {step} {found.thing}." for number, step in enumerate(steps, 1)] + [end])
    return " ".join([f"Now {she} has {step}." for step in steps] + [f"So that is what {found.name} has now. {end}"])


# The checker: from texts alone.

_STEP = re.compile(r"(\d+) ([+x-]) (\d+) = (\d+)")
_EVENT = re.compile(r"\b(" + "|".join(_SIGN) + r") (\d+)")


def read(text: str) -> Problem | None:
    """A problem from its text; None where it is none of this world's."""
    start = re.match(r"(\w+) has (\d+) (?:(\w+) of (\d+) )?(\w+)", text)
    events = tuple((verb, int(number)) for verb, number in _EVENT.findall(text))
    if not start or start[1] not in _NAMES or not events:
        return None
    first = (int(start[2]), int(start[4])) if start[3] else (int(start[2]),)
    return Problem(start[1], start[5], first, start[3] or "", events)


def said(response: str) -> int | None:
    """The answer that a response comes to."""
    found = re.findall(r"The answer is (\d+)\.", response)
    return int(found[-1]) if found else None


def right_steps(found: Problem, response: str) -> float:
    """The share of the steps that are right, up to the first that is not."""
    wanted = [str(step) for step in found.steps()]
    written = [match[0] for match in _STEP.finditer(response)]
    count = next((number for number, (a, b) in enumerate(zip(wanted, written, strict=False)) if a != b), min(len(wanted), len(written)))
    return count / len(wanted)


def reward(messages: list[dict[str, str]], response: str) -> float | None:
    """The truth: 1 if the response comes to the right answer, else 0; None where the prompt is no problem of this world."""
    found = read(messages[-1]["content"])
    return None if found is None else float(said(response) == found.answer())


def pairs(seed: int, count: int) -> Iterator[dict[str, str]]:
    """Preference rows: prompt, chosen (a right solution) and rejected (one with a slip), each in its own manner."""
    draw = random.Random(seed)
    for _ in range(count):
        found = problem(draw)
        yield {
            "prompt": str(found),
            "chosen": write(found, found.steps(), draw.randrange(MANNERS)),
            "rejected": write(found, careless(found, draw), draw.randrange(MANNERS)),
        }


def prompts(seed: int, count: int) -> Iterator[dict[str, str]]:
    """`count` different prompts."""
    draw, seen = random.Random(seed), set()
    while len(seen) < count:
        text = str(problem(draw))
        if text not in seen:
            seen.add(text)
            yield {"prompt": text}


if __name__ == "__main__":
    if len(sys.argv) != 3 or not all(word.isdigit() for word in sys.argv[1:]):
        sys.exit("usage: python -m pipelines.sandbox.world COUNT SEED")
    with printing_for_a_reader():
        for row in prompts(int(sys.argv[2]), int(sys.argv[1])):
            say(json.dumps(row))
