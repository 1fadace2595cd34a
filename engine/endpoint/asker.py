"""Questions that a model behind a server answers with one word: engine/questions.py over HTTP.

- A server that goes on with a begun message is given the begun answer, and the next tokens' probabilities are
  the same as in process. Else the model answers freely, and the word is read where it comes.
- A begun answer's last space is left away where the tokenizer joins it to the word (" A").
- A word of several tokens is followed: by what the model said, or by going on with its beginning. Where
  neither is possible the words cannot be told apart, and there is no answer rather than a wrong one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.endpoint.abilities import Abilities, abilities_of, body_of, check_logprobs, joins_space
from engine.endpoint.client import RowRefusedError, Send
from engine.endpoint.jobs import run_jobs
from engine.endpoint.reading import Branch, Masses, last_place, masses_at, places
from engine.endpoint.replies import Position, Reply
from engine.endpoint.spec import Endpoint
from engine.instructions import Question
from engine.progress import NO_PROGRESS, StageProgress
from engine.questions import Answer
from engine.rejects import Reject
from engine.text import Messages

_SHORT = 6  # tokens behind a begun answer: a space, and a mark of three digits
_FREE = 24  # tokens of a free answer, and of what is kept where it is no word
_BELOW_THOUGHT = "\n\n"
# A branch of less probability goes to the shorter word: it moves a mark by less than this times the scale.
_NEGLIGIBLE = 1e-5
# What the words that cannot be told apart may have of the mass, before there is no answer.
_TOLERABLE = 1e-4


@dataclass(frozen=True)
class _Read:
    """A reply and where in it the word is read; `before`: what stood before the reply in the same message."""

    before: str
    reply: Reply
    at: int | None
    masses: Masses

    @property
    def positions(self) -> Sequence[Position]:
        return self.reply.positions or ()

    @property
    def said(self) -> str:
        """All of the message before the word."""
        return self.before + "".join(position.text for position in self.positions[: self.at])


@dataclass(frozen=True)
class EndpointAsker:
    """Asks a server. `think`: tokens at most that the model may think before it answers."""

    endpoint: Endpoint
    min_mass: float
    think: int = 0
    progress: StageProgress = NO_PROGRESS

    def ask(self, questions: Sequence[Question], words: Sequence[str]) -> list[Answer]:
        """The answer to each question. Raises UserError where the server cannot be used."""
        if not questions:
            return []
        abilities = abilities_of(self.endpoint, tuple(words))
        asking: list[_Asking] = []
        for question in questions:
            joins = abilities.continues and joins_space(self.endpoint, question.begun, tuple(words))
            asking.append(_Asking(self, abilities, words, question, joins))
        answers = run_jobs(self.endpoint, [one.answer for one in asking], self.progress, _refused)
        for number, answer in enumerate(answers):
            if answer.unfit:
                answer.unfit = Reject(number, answer.unfit.reason, answer.unfit.detail)
        return answers


@dataclass(frozen=True)
class _Asking:
    """One question under way. `joins_space`: its begun answer's last space is a part of the word's token."""

    asker: EndpointAsker
    abilities: Abilities
    words: Sequence[str]
    question: Question
    joins_space: bool = False

    async def answer(self, send: Send) -> Answer:
        if self.asker.think:
            return await self._thoughtful(send)
        return await self._at_once(send)

    async def _at_once(self, send: Send) -> Answer:
        """Behind the begun answer, and where that gives nothing where the model's turn begins."""
        begun = self.question.begun
        is_begun = bool(begun) and self.abilities.continues
        read = await self._behind(send, "", begun) if is_begun else await self._free(send)
        answer = await self._judged(send, read)
        if answer.probabilities is None and is_begun:
            second = await self._judged(send, await self._free(send))
            answer = second if second.probabilities is not None else answer
        if answer.probabilities is None:
            answer.said = await self._other_words(send, read)
        return answer

    async def _thoughtful(self, send: Send) -> Answer:
        """After the model's thoughts, which are kept."""
        messages = self.question.messages
        if not self.abilities.continues:
            reply = await self._send(send, messages, self.asker.think + _FREE)
            answer = await self._judged(send, self._read_last(reply))
            answer.said = _own_words(reply)
            return answer
        reply = await send(body_of(messages, self.asker.think, logprobs=False))
        own = _own_words(reply)
        read = await self._behind(send, own + _BELOW_THOUGHT, self.question.begun)
        answer = await self._judged(send, read)
        answer.said = own
        if answer.probabilities is None:
            answer.said = read.before + await self._other_words(send, read)
        return answer

    async def _behind(self, send: Send, before: str, begun: str) -> _Read:
        """The word behind the begun answer, which the server goes on with."""
        if not self.joins_space:
            return await self._begun(send, before + begun)
        short = begun.rstrip()
        read = await self._begun(send, before + short)
        return self._joined(read, begun[len(short) :])

    def _has_words(self, likely: tuple[tuple[str, float], ...]) -> bool:
        """True if one of the tokens is a word or begins one."""
        return masses_at(Position("", likely), self.words, self.abilities.whole).together > 0

    def _joined(self, read: _Read, space: str) -> _Read:
        """The word where the tokenizer joins some to the space, of which others may be tokens apart."""
        if not read.positions:
            return read
        first = read.positions[0]
        masses = masses_at(first, self.words, self.abilities.whole)
        alone = sum(probability for text, probability in first.likely if text == space)
        if alone:
            masses.branches.append(Branch(space, "", alone))
        return _Read(read.before, read.reply, 0, masses)

    async def _begun(self, send: Send, before: str) -> _Read:
        # Where it may be asked freely as well, the answer may end behind the begun one.
        may_be_empty = not self.asker.think
        reply = await self._send(send, self.question.messages, _SHORT, before, may_be_empty)
        return self._best(before, reply, places(reply.positions or (), "", is_begun=True))

    async def _free(self, send: Send) -> _Read:
        """The word in an answer that the model begins itself."""
        begun = self.question.begun
        reply = await self._send(send, self.question.messages, _FREE if begun else _SHORT)
        return self._best("", reply, places(reply.positions or (), begun, is_begun=not begun))

    def _best(self, before: str, reply: Reply, candidates: Sequence[int]) -> _Read:
        """The reply, read where the words have most."""
        best = _Read(before, reply, None, Masses())
        for number in candidates:
            position = (reply.positions or ())[number]
            masses = masses_at(position, self.words, self.abilities.whole)
            if best.at is None or masses.together > best.masses.together:
                best = _Read(before, reply, number, masses)
        return best

    def _read_last(self, reply: Reply) -> _Read:
        """The word at the end of thoughts that the model ended itself: there it must have said one."""
        positions = reply.positions or ()
        at = last_place(positions, self.question.begun)
        if at is None:
            return _Read("", reply, None, Masses())
        if not self._has_words(((positions[at].text, 1.0),)):
            return _Read("", reply, None, Masses())
        return _Read("", reply, at, masses_at(positions[at], self.words, self.abilities.whole))

    async def _send(
        self,
        send: Send,
        messages: Messages,
        tokens: int,
        begun: str | None = None,
        may_be_empty: bool = False,
    ) -> Reply:
        reply = await send(body_of(messages, tokens, begun), may_be_empty=may_be_empty)
        check_logprobs(self.asker.endpoint, reply)
        return reply

    async def _judged(self, send: Send, read: _Read) -> Answer:
        """The words' probabilities among themselves, if they have enough together."""
        unresolved = 0.0
        by_word = dict(read.masses.by_word)
        if read.at is not None:
            following = read.positions[read.at :]
            unresolved = await self._follow(send, read.masses, read.said, following, 1.0, by_word)
        mass = sum(by_word.values())
        answer = Answer(mass=mass)
        if mass < self.asker.min_mass or not mass:
            return answer
        if unresolved > _TOLERABLE * mass:
            detail = (
                f"marks with {unresolved / mass:.2g} of the probability begin other marks "
                f"({', '.join(self.words)}), and the server neither says which token comes next nor goes on "
                "with a begun message"
            )
            return Answer(mass=mass, unfit=Reject(0, "marks_not_told_apart", detail))
        answer.probabilities = [by_word.get(word, 0.0) / mass for word in self.words]
        return answer

    async def _follow(
        self,
        send: Send,
        masses: Masses,
        said: str,
        following: Sequence[Position],
        chance: float,
        by_word: dict[str, float],
    ) -> float:
        """Share the branches out among the words; returns the probability that stays untold.

        `said`: the message up to the branches; `following`: the positions from the branches' own on;
        `chance`: the probability that it comes to them."""
        untold = 0.0
        for branch in masses.branches:
            probability = chance * branch.probability
            below = None
            if probability > _NEGLIGIBLE:
                below = await self._next(send, said, branch, following)
            longer = 0.0
            if below is not None:
                inner, rest = below
                longer = probability * inner.together
                for word, share in inner.by_word.items():
                    by_word[word] = by_word.get(word, 0.0) + probability * share
                untold += await self._follow(send, inner, said + branch.text, rest, probability, by_word)
            elif probability > _NEGLIGIBLE:
                untold += probability
            if branch.spelled in self.words:
                by_word[branch.spelled] = by_word.get(branch.spelled, 0.0) + probability - longer
        return untold

    async def _next(
        self, send: Send, said: str, branch: Branch, following: Sequence[Position]
    ) -> tuple[Masses, Sequence[Position]] | None:
        """What comes behind a branch: as the model said it, or by going on with it; None where neither is."""
        rest: Sequence[Position] = ()
        if following[0].text == branch.text and len(following) > 1:
            rest = following[1:]
        elif self.abilities.continues:
            reply = await self._send(
                send, self.question.messages, _SHORT, said + branch.text, may_be_empty=True
            )
            rest = reply.positions or ()
            if not rest:
                return Masses(), rest  # the answer ends there
        else:
            return None
        return masses_at(rest[0], self.words, self.abilities.whole, branch.spelled), rest

    async def _other_words(self, send: Send, read: _Read) -> str:
        """What the model says in place of a word."""
        if read.reply.finish_reason == "stop":
            return read.reply.text
        begun = read.before or None
        reply = await send(body_of(self.question.messages, _FREE, begun, logprobs=False))
        return reply.text


def _refused(number: int, refused: RowRefusedError) -> Answer:
    """The answer to a question that the server refuses."""
    return Answer(unfit=Reject(number, refused.reason, refused.detail))


def _own_words(reply: Reply) -> str:
    """All that the model itself said, its thoughts marked as chat templates do it."""
    text = reply.text
    if reply.thought:
        return f"<think>\n{reply.thought.strip()}\n</think>\n\n{text}"
    opened = text.rfind("<think>")
    if opened > text.rfind("</think>"):
        return text + "</think>"
    return text
