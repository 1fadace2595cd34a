"""Questions to a model that it answers with one word, read from the probabilities of its next tokens.

- A word is not sampled. Forward passes of the question give the probability of every word that may come next,
  so the whole distribution is known.
- The question may begin the answer ("Rating: "); the word is what comes after it. A model that has learnt to
  answer with the word alone is not to be led astray by that: where the words have too little probability
  after the begun answer, they are read where the model's turn begins.
- A model may think first: what it says then is sampled greedily and stays as it was sampled; the begun answer
  stands below it. A thought that the model's turn opens (<think>) is closed before the answer.
- The words may have little of the probability together; among themselves it is made to sum to one. Where
  they have less than `min_mass`, the model gave no answer; up to 24 tokens of what it says instead are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from engine.edits import common_prefix
from engine.instructions import Question
from engine.marks import Marks, spell
from engine.models import Ids, Model
from engine.rejects import Reject, unfit
from engine.text import Messages, TemplateError, Text
from schemas.sections import Sampling

# How an answer that is none of the words is sampled.
_OTHER_ANSWER = Sampling(temperature=0.0, max_tokens=24)
_OPENS_THOUGHT = "<think>"
_CLOSES_THOUGHT = "</think>"
_TAIL = 16  # tokens at a prompt's end where _OPENS_THOUGHT is looked for
# What the begun answer stands below, and a letter in the thought's place: so the tokenizer cuts it as there.
_THOUGHT = "x"
_BELOW_THOUGHT = _THOUGHT + "\n\n"


@dataclass
class Answer:
    """The answer to one question.

    `probabilities`: of the words among themselves, in their order; None where the model gave no answer.
    `mass`: the probability that it goes on with one of the words at all. `said`: its thoughts, and what it
    says in place of one of the words; None where it only answers. `unfit`: why it could not be asked; the
    reject's row is the question's place."""

    probabilities: list[float] | None = None
    mass: float | None = None
    said: str | None = None
    unfit: Reject | None = None


@dataclass(frozen=True)
class _Form:
    """What questions with the same begun answer share.

    `closing`: the tokens that close a thought; `below`: those of the begun answer below a thought. Both are
    empty where there is none: the begun answer is then a part of the prompt."""

    marks: Marks
    closing: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)

    @property
    def room(self) -> int:
        """Tokens that it needs after the prompt and the thought."""
        return len(self.closing) + len(self.below) + self.marks.longest


@dataclass(frozen=True)
class _Asked:
    """A question that the model is asked, by its place.

    `prompt`: its tokens up to the word that is read; `thought`: of these, the ones that the model thought;
    `own_from`: where what the model itself says begins in `prompt`."""

    number: int
    form: _Form
    prompt: list[int]
    thought: Ids = ()
    own_from: int = 0


@dataclass(frozen=True)
class Asker:
    """Asks a model. `positions` are the tokens of question and answer that it takes, 0 for no limit.

    `think`: tokens at most that it may think before it answers; `text`: in place of the model's own."""

    model: Model
    positions: int
    min_mass: float
    think: int = 0
    text: Text | None = None

    @property
    def _text(self) -> Text:
        return self.text or self.model.text

    def ask(
        self,
        questions: Sequence[Question],
        words: Sequence[str],
    ) -> list[Answer]:
        """The answer to each question. Raises UserError where the model spells two of the words alike."""
        answers, unclear = self._read(questions, words)
        still_unclear = unclear
        if not self.think:
            still_unclear = self._read_at_once(questions, words, answers, unclear)
        others = self._other_answers(still_unclear)
        for asked, other in zip(still_unclear, others, strict=True):
            answers[asked.number].said = other
        return answers

    def _read_at_once(
        self,
        questions: Sequence[Question],
        words: Sequence[str],
        answers: list[Answer],
        unclear: Sequence[_Asked],
    ) -> list[_Asked]:
        """Put answers without the begun one in the place of unclear ones; returns what stays unclear."""
        begun = [asked for asked in unclear if questions[asked.number].begun]
        at_once = [replace(questions[asked.number], begun="") for asked in begun]
        second_answers, _ = self._read(at_once, words)
        for asked, second in zip(begun, second_answers, strict=True):
            if second.probabilities is not None:
                answers[asked.number] = second
        return [asked for asked in unclear if answers[asked.number].probabilities is None]

    def _read(
        self,
        questions: Sequence[Question],
        words: Sequence[str],
    ) -> tuple[list[Answer], list[_Asked]]:
        """The answers as the questions begin them, and the questions that have none."""
        answers = [Answer() for _ in questions]
        all_asked: list[_Asked] = []
        for number, asked in enumerate(self._put(questions, words)):
            if isinstance(asked, Reject):
                answers[number].unfit = asked
            else:
                all_asked.append(asked)
        unclear: list[_Asked] = []
        for asked, masses in zip(all_asked, self._masses(all_asked), strict=True):
            answer = answers[asked.number]
            total = masses.sum()
            answer.mass = float(total)
            is_clear = answer.mass >= self.min_mass  # False for NaN
            if not is_clear:
                unclear.append(asked)
            elif total > 0:
                shares = masses / total
                answer.probabilities = shares.tolist()
        if self.think:
            thoughts = self._text.decode([asked.thought for asked in all_asked])
            for asked, thought in zip(all_asked, thoughts, strict=True):
                answers[asked.number].said = thought
        return answers, unclear

    def _put(self, questions: Sequence[Question], words: Sequence[str]) -> list[_Asked | Reject]:
        """Each question as the model is asked it, after its thoughts; or why it cannot be."""
        text = self._text
        messages = [question.messages for question in questions]
        is_open = _opens_thought(text, messages)
        has_thought = is_open or self.think > 0
        begun = ["" if has_thought else question.begun for question in questions]
        forms: dict[str, _Form] = {}
        put: list[_Asked | Reject] = []
        for number, ids in enumerate(text.openings(messages, begun)):
            question = questions[number]
            refusal = unfit(ids, self.positions)
            if not refusal:
                if question.begun not in forms:
                    forms[question.begun] = _form(text, question, words, has_thought)
                refusal = unfit(ids, self.positions, forms[question.begun].room)
            put.append(_asked_or_reject(number, ids, refusal, forms.get(question.begun)))
        fit = [asked for asked in put if isinstance(asked, _Asked)]
        for asked, thought in zip(fit, self._thoughts(fit), strict=True):
            put[asked.number] = _complete(text, asked, thought, is_open)
        return put

    def _thoughts(self, all_asked: Sequence[_Asked]) -> list[Ids]:
        """What the model thinks of each question: its tokens, without the one that ends a response."""
        if not self.think or not all_asked:
            return [()] * len(all_asked)
        sampling = Sampling(temperature=0.0, max_tokens=self.think)
        prompts = [asked.prompt for asked in all_asked]
        thoughts: list[Ids] = []
        for asked, (sample,) in zip(
            all_asked, self.model.generate(prompts, [[0]] * len(prompts), sampling), strict=True
        ):
            thought = sample.ids
            if sample.finish_reason == "stop":
                thought = thought[:-1]
            if self.positions:
                thought = thought[: self.positions - len(asked.prompt) - asked.form.room]
            thoughts.append(thought)
        return thoughts

    def _masses(self, all_asked: Sequence[_Asked]) -> list[np.ndarray]:
        """For each question the probability of each word as the answer: float64 (words,)."""
        if not all_asked:
            return []
        prompts: list[Ids] = []
        tokens: list[list[Ids]] = []
        for asked in all_asked:
            for said, following in asked.form.marks.branchings.items():
                prompts.append([*asked.prompt, *said])
                tokens.append([[token] for token in following])
        logps = iter(self.model.logprobs(prompts, tokens))
        masses: list[np.ndarray] = []
        for asked in all_asked:
            marks = asked.form.marks
            token_logps = [np.concatenate(next(logps)) for _ in marks.branchings]
            masses.append(marks.masses(token_logps))
        return masses

    def _other_answers(self, unclear: Sequence[_Asked]) -> list[str]:
        """What the model says to each question: all that is its own, from its thoughts on."""
        if not unclear:
            return []
        prompts = [asked.prompt for asked in unclear]
        samples = self.model.generate(prompts, [[0]] * len(prompts), _OTHER_ANSWER)
        token_ids: list[Ids] = []
        for asked, (sample,) in zip(unclear, samples, strict=True):
            token_ids.append([*asked.prompt[asked.own_from :], *sample.ids])
        return self._text.decode(token_ids)


def _asked_or_reject(
    number: int, ids: list[int] | TemplateError, refusal: tuple[str, str] | None, form: _Form | None
) -> "_Asked | Reject":
    """A question that can be asked by its token ids, or why it cannot."""
    if refusal:
        return Reject(number, *refusal)
    assert form is not None and not isinstance(ids, TemplateError)
    return _Asked(number, form, ids, own_from=len(ids))


def _opens_thought(text: Text, questions: Sequence[Messages]) -> bool:
    """True if the template itself opens a thought where the assistant's turn begins."""
    for messages in questions:
        (ids,) = text.prompts([messages])
        if not isinstance(ids, TemplateError):
            end = text.tokenizer.decode(ids[-_TAIL:])
            return end.rstrip().endswith(_OPENS_THOUGHT)
    return False


def _form(text: Text, question: Question, words: Sequence[str], has_thought: bool) -> _Form:
    """How a question's answer is begun, and how the words go on from there."""
    if not has_thought:
        return _Form(spell(text, question, words))
    begun = _BELOW_THOUGHT + question.begun
    marks = spell(text, replace(question, begun=begun), words)
    thought, whole = text.openings([question.messages] * 2, [_THOUGHT, begun])
    assert not isinstance(thought, TemplateError) and not isinstance(whole, TemplateError)
    below = whole[common_prefix(thought, whole) : len(whole) - marks.dropped]
    *_, closing = text.spellings(_CLOSES_THOUGHT)
    return _Form(replace(marks, dropped=0), closing, below)


def _complete(text: Text, asked: _Asked, thought: Ids, is_open: bool) -> _Asked:
    """A question with all that stands before the word: the thought, and the begun answer below it."""
    form = asked.form
    kept = len(asked.prompt) - form.marks.dropped
    said = text.tokenizer.decode(list(thought))
    opened = said.rfind(_OPENS_THOUGHT)
    closed = said.rfind(_CLOSES_THOUGHT)
    has_open_thought = opened > closed or (is_open and closed < 0)
    closing = form.closing if has_open_thought else []
    prompt = [*asked.prompt[:kept], *thought, *closing, *form.below]
    own_from = kept if thought else len(prompt)
    return replace(asked, prompt=prompt, thought=thought, own_from=own_from)
