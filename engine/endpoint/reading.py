"""Where in a server's answer the word stands, and what the words have there: values in, values out.

- The word stands where the answer begins, or behind the begun answer ("Rating: ") if the model says that
  itself; white space, the signs of Markdown and the case of the begun answer are set aside.
- "10" may be two tokens, so the probability of the token "1" is that of the words "1" and "10" together.
  `Branch` says so; whoever can ask the server what follows resolves it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.endpoint.replies import Position

_SET_ASIDE = re.compile(r"[\s*_`\"'#]+")


@dataclass(frozen=True)
class Branch:
    """A token that may be a word or the beginning of longer ones: `text` as the model said it, `spelled` so
    far, and the probability of both together."""

    text: str
    spelled: str
    probability: float


@dataclass
class Masses:
    """The probability of each word at one position, and what is not yet told apart."""

    by_word: dict[str, float] = field(default_factory=dict)
    branches: list[Branch] = field(default_factory=list)

    def add(self, word: str, probability: float) -> None:
        self.by_word[word] = self.by_word.get(word, 0.0) + probability

    @property
    def together(self) -> float:
        """What all have: that the answer goes on with a word or with the beginning of one."""
        return sum(self.by_word.values()) + sum(branch.probability for branch in self.branches)


def masses_at(position: Position, words: Sequence[str], whole: frozenset[str], spelled: str = "") -> Masses:
    """What the words have at a position, after the letters `spelled` of one.

    `whole`: words that are known to be one token, so that no other token begins them."""
    masses = Masses()
    for text, probability in position.likely:
        said = spelled + (text if spelled else text.strip())
        if said == spelled:
            continue  # white space, or the end of the answer
        longer = [word for word in words if word.startswith(said) and word != said and word not in whole]
        if longer:
            masses.branches.append(Branch(text, said, probability))
        elif said in words:
            masses.add(said, probability)
    return masses


def places(positions: Sequence[Position], begun: str, is_begun: bool) -> list[int]:
    """Where the word may stand: the first position that says something, and white space before it.

    `is_begun`: the begun answer stands before the positions already."""
    wanted = _plain(begun)
    said = wanted if is_begun else ""
    run: list[int] = []
    for number, position in enumerate(positions):
        piece = _plain(position.text)
        if not piece:
            run.append(number)
        elif said != wanted and wanted.startswith(said + piece):
            said += piece
            run = []
        elif said in ("", wanted):
            return [*run, number]
        else:
            break  # it began like the begun answer and is something else
    if said == wanted and run:
        return run
    return [0] if positions else []


def last_place(positions: Sequence[Position], begun: str) -> int | None:
    """Where the word stands after thoughts: behind the last begun answer, else where the last line begins."""
    starts: list[int] = []
    text = ""
    for position in positions:
        starts.append(len(text))
        text += position.text
    at = _behind_last(text, begun)
    if at is None:
        at = text.rstrip().rfind("\n") + 1
    for number, position in enumerate(positions):
        behind = position.text[max(0, at - starts[number]) :]
        if _plain(behind):
            return number
    return None


def _behind_last(text: str, begun: str) -> int | None:
    """Where in a text the last begun answer ends; None where there is none."""
    words = begun.split()
    if not words:
        return None
    pattern = r"[\s*_`\"'#]*".join(re.escape(word) for word in words)
    found = list(re.finditer(pattern, text, re.IGNORECASE))
    return found[-1].end() if found else None


def _plain(text: str) -> str:
    return _SET_ASIDE.sub("", text).casefold()
