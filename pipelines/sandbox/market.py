"""The market: a larger world than `world.py`, in which a small model stays far from perfect.

    Ada has 34 coins. Ada buys 4 bags of 6 more. Ada sells 27. How many coins does Ada have now?

    First 4 x 6 = 24. Then 34 + 24 = 58. Then 58 - 27 = 31. The answer is 31.

- Numbers go up to 999, goods also come in packs, and a solution has two to six steps. A third of the problems
  has small numbers, a third middling and a third large ones.
- A solution is written in one of six manners, and may have one slip: a wrong sum, a wrong sign, a number
  copied wrongly, or an event left out.
- Everything is a function of a seed, and the checker reads texts alone. What a response is worth is said in
  `rewards.py`.

    python -m pipelines.sandbox.market COUNT SEED > prompts.jsonl        prompts alone
"""

import json
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.sandbox.world import Step, said
from schemas.commands import printing_for_a_reader
from schemas.screen import say

__all__ = ["MANNERS", "Problem", "careless", "problem", "prompts", "read", "right_steps", "said", "write"]

_PEOPLE = {
    "Ada": "she",
    "Ben": "he",
    "Cleo": "she",
    "Dan": "he",
    "Eva": "she",
    "Finn": "he",
    "Gia": "she",
    "Hugo": "he",
}
_THINGS = ("apples", "books", "coins", "marbles", "pencils", "shells", "stamps", "stones")
_HOLDERS = ("bags", "boxes", "bowls", "rows")
_GAINS = ("buys", "finds", "gets", "wins")
_LOSSES = ("breaks", "loses", "sells")
_SLIPS = ("sum", "sign", "copy", "left out")
_OFF = (-10, -2, -1, 1, 2, 10)  # by how much a number is got wrong
_LARGEST = 999
_MOST_STEPS = 6
_SIZES = (20, 60, 180)  # how large a problem's numbers are: small ones are easy for a small model
MANNERS = 6


@dataclass(frozen=True)
class Event:
    """Somebody gains or loses `packs` times `count` things; one pack is none."""

    verb: str
    packs: int
    count: int

    @property
    def sign(self) -> str:
        """+ or -."""
        return "+" if self.verb in _GAINS else "-"

    def told(self, who: str, holder: str) -> str:
        """As a sentence."""
        amount = f"{self.packs} {holder} of {self.count}" if self.packs > 1 else str(self.count)
        more = " more" if self.sign == "+" else ""
        return f"{who} {self.verb} {amount}{more}."


@dataclass(frozen=True)
class Problem:
    """`start`: (packs, count) at the beginning."""

    who: str
    thing: str
    holder: str
    start: tuple[int, int]
    events: tuple[Event, ...]

    def __str__(self) -> str:
        packs, count = self.start
        goods = f"{count} {self.thing}"
        if packs > 1:
            goods = f"{packs} {self.holder} of {goods} each"
        told = [f"{self.who} has {goods}."]
        told += [event.told(self.who, self.holder) for event in self.events]
        return f"{' '.join(told)} How many {self.thing} does {self.who} have now?"

    def steps(self) -> list[Step]:
        """The right steps to the answer."""
        return _steps(self.start, self.events)

    def answer(self) -> int:
        """How many there are at the end."""
        return self.steps()[-1].result


def _steps(start: tuple[int, int], events: Sequence[Event]) -> list[Step]:
    """The steps from a start through events; packs are counted in a step of their own."""
    steps: list[Step] = []
    packs, now = start
    if packs > 1:
        now = packs * start[1]
        steps.append(Step(packs, "x", start[1], now))
    for event in events:
        number = event.count
        if event.packs > 1:
            number = event.packs * event.count
            steps.append(Step(event.packs, "x", event.count, number))
        result = now + number if event.sign == "+" else now - number
        steps.append(Step(now, event.sign, number, result))
        now = result
    return steps


def problem(draw: random.Random) -> Problem:
    """A problem whose every number on the way lies between 1 and 999, with two to six steps."""
    while True:
        size = draw.choice(_SIZES)
        found = Problem(
            who=draw.choice(list(_PEOPLE)),
            thing=draw.choice(_THINGS),
            holder=draw.choice(_HOLDERS),
            start=_start(size, draw),
            events=tuple(_event(size, draw) for _ in range(draw.choice((2, 3, 4)))),
        )
        steps = found.steps()
        if len(steps) <= _MOST_STEPS and _are_in_range(steps):
            return found


def _start(size: int, draw: random.Random) -> tuple[int, int]:
    if draw.random() < 0.3:
        return draw.randint(2, 9), draw.randint(2, 3 + size // 8)
    return 1, draw.randint(10, 10 + 5 * size // 2)


def _event(size: int, draw: random.Random) -> Event:
    verb = draw.choice((*_GAINS, *_LOSSES))
    if verb in _GAINS and draw.random() < 0.25:
        return Event(verb, draw.randint(2, 6), draw.randint(2, 3 + size // 8))
    return Event(verb, 1, draw.randint(3, size))


def _are_in_range(steps: Sequence[Step]) -> bool:
    return all(0 < step.result <= _LARGEST for step in steps)


def careless(found: Problem, draw: random.Random) -> list[Step]:
    """The steps with one slip, by which the answer is wrong and still a number from 1 to 999."""
    answer = found.answer()
    while True:
        steps = _slipped(found, draw.choice(_SLIPS), draw)
        if steps and steps[-1].result != answer and _are_in_range(steps):
            return steps


def _slipped(found: Problem, slip: str, draw: random.Random) -> list[Step]:
    """The steps with a slip of this kind; it may change nothing, or leave no steps."""
    if slip == "sum":
        return _with_wrong_sum(found, draw)
    events = list(found.events)
    place = draw.randrange(len(events))
    event = events[place]
    if slip == "sign":
        other = _LOSSES[0] if event.sign == "+" else _GAINS[0]
        events[place] = Event(other, event.packs, event.count)
    elif slip == "copy":
        events[place] = Event(event.verb, event.packs, max(1, event.count + draw.choice(_OFF)))
    else:
        del events[place]
    return _steps(found.start, events)


def _with_wrong_sum(found: Problem, draw: random.Random) -> list[Step]:
    """The steps with one wrong result, from which the next ones go on."""
    right = found.steps()
    wrong = draw.randrange(len(right))
    steps: list[Step] = []
    changed: dict[int, int] = {}  # right result -> the one that is said
    for number, step in enumerate(right):
        a = changed.get(step.a, step.a) if step.sign != "x" else step.a
        b = changed.get(step.b, step.b) if step.sign != "x" else step.b
        result = {"+": a + b, "-": a - b, "x": a * b}[step.sign]
        if number == wrong:
            result += draw.choice(_OFF)
        changed = {step.result: result} if step.sign != "x" else changed | {step.result: result}
        steps.append(Step(a, step.sign, b, result))
    return steps


def write(found: Problem, steps: Sequence[Step], manner: int) -> str:
    """A solution in one of MANNERS manners: the same steps in other words."""
    she = _PEOPLE[found.who]
    end = f"The answer is {steps[-1].result}."
    if manner == 0:
        told = [f"{'Then' if number else 'First'} {step}." for number, step in enumerate(steps)]
    elif manner == 1:
        told = [f"{found.who} has " + ", and then ".join(map(str, steps)) + f" {found.thing}."]
    elif manner == 2:
        told = [f"Let us count the {found.thing}: " + "; ".join(map(str, steps)) + "."]
    elif manner == 3:
        told = [f"Step {number}: {step}." for number, step in enumerate(steps, 1)]
    elif manner == 4:
        told = [f"Now {she} has {step}." for step in steps]
        told.append(f"So that is what {found.who} has now.")
    else:
        told = [f"{step}." for step in steps]
    return " ".join([*told, end])


# The checker: from texts alone.

_STEP = re.compile(r"(\d+) ([+x-]) (\d+) = (\d+)")
_START = re.compile(r"(\w+) has (?:(\d+) (\w+) of )?(\d+) (\w+)(?: each)?")
_EVENT = re.compile(r"\w+ (\w+) (?:(\d+) (\w+) of )?(\d+)(?: more)?")
_QUESTION = re.compile(r"How many (\w+) does (\w+) have now\?")


def read(text: str) -> Problem | None:
    """A problem from its text; None where it is none of this world's."""
    first, *sentences = text.split(". ")
    start = _START.fullmatch(first)
    events = [_EVENT.fullmatch(sentence) for sentence in sentences[:-1]]
    if start is None or not events or None in events or not _QUESTION.fullmatch(sentences[-1]):
        return None
    holder = start[3] or _HOLDERS[0]
    told: list[Event] = []
    for event in events:
        assert event is not None
        if event[1] not in (*_GAINS, *_LOSSES):
            return None
        told.append(Event(event[1], int(event[2] or 1), int(event[4])))
        holder = event[3] or holder
    return Problem(
        who=start[1],
        thing=start[5],
        holder=holder,
        start=(int(start[2] or 1), int(start[4])),
        events=tuple(told),
    )


def right_steps(found: Problem, response: str) -> float:
    """The share of the steps that are right, up to the first that is not."""
    wanted = [str(step) for step in found.steps()]
    written = [match[0] for match in _STEP.finditer(response)]
    count = 0
    for right, said_step in zip(wanted, written, strict=False):
        if right != said_step:
            break
        count += 1
    return count / len(wanted)


def prompts(seed: int, count: int) -> Iterator[dict[str, str]]:
    """`count` different prompts."""
    draw = random.Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        text = str(problem(draw))
        if text not in seen:
            seen.add(text)
            yield {"prompt": text}


if __name__ == "__main__":
    if len(sys.argv) != 3 or not all(word.isdigit() for word in sys.argv[1:]):
        sys.exit("usage: python -m pipelines.sandbox.market COUNT SEED")
    with printing_for_a_reader():
        for row in prompts(int(sys.argv[2]), int(sys.argv[1])):
            say(json.dumps(row))
