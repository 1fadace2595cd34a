"""The words that may answer a question, as a model spells them: sequences of tokens.

- A word is spelled as the tokenizer does it where the begun answer goes on. A space at the begun answer's end
  often merges with the word ("Response " and "A" are two tokens, "Response" and " A"), so what the spellings
  do not share with the begun answer is taken from the prompt and said anew.
- A model may also say it without a space or after one, or on a new line: where a single token, or one for its
  first character, does that, it counts too.
- "10" may begin with the token that "1" is. P("1") is that of its tokens, less that of the longer words that
  begin so. The spellings form a tree, and the model is asked once at each of its branchings.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.edits import common_prefix
from engine.instructions import Question
from engine.text import TemplateError, Text
from schemas.errors import UserError

Spelling = tuple[int, ...]


@dataclass(frozen=True)
class Marks:
    """The spellings of some words, as places among the words, and what they are read after.

    `dropped`: tokens at the end of the prompt that the spellings say anew."""

    words: int
    places: dict[Spelling, int]
    dropped: int = 0

    @functools.cached_property
    def branchings(self) -> dict[Spelling, list[int]]:
        """What has been said -> the tokens that may follow. The empty beginning comes first."""
        branchings: dict[Spelling, list[int]] = {}
        for spelling in self.places:
            for said in range(len(spelling)):
                tokens = branchings.setdefault(spelling[:said], [])
                if spelling[said] not in tokens:
                    tokens.append(spelling[said])
        return branchings

    @property
    def longest(self) -> int:
        """Tokens of the longest spelling."""
        return max(map(len, self.places))

    def masses(self, token_logps: Sequence[Sequence[float]]) -> np.ndarray:
        """(words,) float64: the probability that the answer is exactly this word, of each.

        `token_logps`: at each of the branchings the log-probs of its tokens."""
        logps: dict[Spelling, float] = {(): 0.0}
        for (said, tokens), following in zip(self.branchings.items(), token_logps, strict=True):
            for token, logp in zip(tokens, following, strict=True):
                logps[*said, token] = logps[said] + float(logp)
        exact: dict[Spelling, float] = {}
        for spelling in sorted(self.places, key=len):
            probability = np.exp(logps[spelling])
            exact[spelling] = probability
            shorter = self._longest_beginning(spelling)
            if shorter:
                exact[shorter] -= probability
        masses = np.zeros(self.words)
        for spelling, place in self.places.items():
            masses[place] += np.maximum(exact[spelling], 0.0)  # keeps NaN
        return masses

    def _longest_beginning(self, spelling: Spelling) -> Spelling:
        """The longest other spelling that this one begins with; empty if there is none."""
        for end in range(len(spelling) - 1, 0, -1):
            if spelling[:end] in self.places:
                return spelling[:end]
        return ()


def spell(text: Text, question: Question, words: Sequence[str]) -> Marks:
    """The spellings of the words as answers to a question. Raises UserError where two words look alike."""
    dropped, in_place = _in_place(text, question, words)
    places: dict[Spelling, int] = {}
    for place, word in enumerate(words):
        spellings = in_place[place] | _anywhere(text, word)
        if not spellings:
            spellings = set(map(tuple, text.spellings(word)))
        for spelling in sorted(spellings):
            if places.setdefault(spelling, place) != place:
                other = words[places[spelling]]
                raise UserError(
                    f"the tokenizer {text.tokenizer.name_or_path} writes the answers '{other}' and '{word}' "
                    f"with the same tokens {list(spelling)}: one cannot be told from the other; "
                    "choose another judge.model or other marks (judge.low, judge.high)"
                )
    return Marks(len(words), places, dropped)


def _in_place(text: Text, question: Question, words: Sequence[str]) -> tuple[int, list[set[Spelling]]]:
    """How each word goes on from the begun answer; and the tokens that the begun answer loses by that."""
    if not question.begun:
        return 0, [set() for _ in words]
    answers = ["", *words]
    begun = [question.begun + answer for answer in answers]
    opening, *spelled = map(_fit, text.openings([question.messages] * len(answers), begun))
    kept = min(common_prefix(opening, ids) for ids in spelled)
    return len(opening) - kept, [{tuple(ids[kept:])} for ids in spelled]


def _fit(ids: list[int] | TemplateError) -> list[int]:
    assert not isinstance(ids, TemplateError), "the question has been refused before"
    return ids


def _anywhere(text: Text, word: str) -> set[Spelling]:
    """The word by itself, after a space or a line's end, where a single token can begin it."""
    spellings: set[Spelling] = set()
    for ids, first in zip(text.spellings(word), text.spellings(word[0]), strict=False):
        if len(ids) == 1 or len(first) == 1:
            spellings.add(tuple(ids))
    return spellings
