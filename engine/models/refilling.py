"""Samples side by side, of which each that ends makes place for the next: one long sample holds no others.

A prompt is run once for the samples of it that begin together. One that begins while another of its prompt is
under way takes over what that one's row has of the prompt.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedModel

from engine.models import Ids, Sample
from engine.models.drawing import shaping_of
from engine.models.sampling import draw
from engine.models.stopping import StopStrings, all_stop_ids, with_said
from engine.text import Text
from schemas.forward.decoding import DECODING, next_logits, step_of
from schemas.forward.generating import attending
from schemas.forward.linears import packed_linears
from schemas.forward.logps import decoder_and_head
from schemas.forward.rows import Rows
from schemas.sections import Sampling


@dataclass(frozen=True)
class Wanted:
    """A sample to be drawn: `prompt` is the number of its prompt, `room` the tokens that it may have."""

    prompt: int
    ids: Ids
    seed: int
    room: int


@dataclass
class _Row:
    """A sample that is under way. `place`: among those wanted."""

    place: int
    wanted: Wanted
    stop: StopStrings | None
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)

    @property
    def last_token(self) -> int:
        """What it goes on by; before its first token that is its prompt's last one."""
        return self.ids[-1] if self.ids else self.wanted.ids[-1]

    def add(self, token: int, logp: float, stop_ids: Sequence[int]) -> Sample | None:
        """Take the next token; the sample, if it is over with it."""
        self.ids.append(token)
        self.logps.append(logp)
        said = None
        finish_reason = "stop"
        if token not in stop_ids:
            if self.stop is not None and self.stop.add(token):
                said = self.stop.said
            elif len(self.ids) == self.wanted.room:
                finish_reason = "length"
            else:
                return None
        return Sample(self.ids, np.array(self.logps, np.float32), finish_reason, said)


def draw_refilled(
    model: PreTrainedModel,
    text: Text,
    wanted: Sequence[Wanted],
    sampling: Sampling,
    rows: Rows,
    tokens: int,
    check: Callable[[], None],
) -> Generator[tuple[int, Sample]]:
    """The place of each wanted sample and the sample, as they end; up to `rows.count` are drawn side by side.

    `tokens`: of prompts that begin in one pass, unless a single one has more; `check`: called before each
    step, raises where no more is wanted. Of a prompt whose samples stand together among the wanted ones
    little is run twice."""
    drawing = _Drawing(model, text, wanted, sampling, rows, tokens)
    with attending(model, DECODING), packed_linears(model):
        while drawing.is_under_way():
            check()
            yield from drawing.step()


class _Drawing:
    """The rows of `draw_refilled`; `_rows`, `_cache` and `_shaping` have them in the same order."""

    def __init__(
        self,
        model: PreTrainedModel,
        text: Text,
        wanted: Sequence[Wanted],
        sampling: Sampling,
        rows: Rows,
        tokens: int,
    ):
        self._decoder, self._head = decoder_and_head(model)
        self._text = text
        self._wanted = wanted
        self._waiting = deque(range(len(wanted)))  # the places of those that have not begun
        self._sampling = sampling
        self._tokens = tokens
        self._stop_ids = all_stop_ids(text, sampling)
        self._shaping = shaping_of(text, sampling, self._stop_ids)
        self._cache = rows
        self._rows: list[_Row] = []

    def is_under_way(self) -> bool:
        """False when all samples are over."""
        return bool(self._rows or self._waiting)

    def step(self) -> list[tuple[int, Sample]]:
        """Draw a token in every row; the samples that are over with it."""
        self._put_back()
        prompts = self._begin()
        going = len(self._cache.lengths)
        last_tokens = [row.last_token for row in self._rows[:going]]
        step = step_of(self._cache, last_tokens, prompts, self._head.weight.device)
        logits = next_logits(self._decoder, self._head, step)
        shaped = logits if self._shaping is None else self._shaping(logits)
        seeds = [row.wanted.seed for row in self._rows]
        positions = [len(row.ids) for row in self._rows]
        drawn, logps = draw(logits, shaped, seeds, positions, self._sampling)
        return self._take(drawn.tolist(), logps.tolist())

    def _put_back(self) -> None:
        """Let samples wait where the rows outgrow their memory, those that have the fewest tokens.

        They begin anew later, and are then the same: a sample is a function of its prompt and seed."""
        while len(self._rows) > 1:
            longest_next = max(self._cache.lengths) + 1
            if self._cache.fit(len(self._rows), longest_next):
                return
            number = min(range(len(self._rows)), key=lambda row: len(self._rows[row].ids))
            self._waiting.appendleft(self._rows[number].place)
            self._give_up(number)

    def _begin(self) -> list[tuple[Ids, int]]:
        """Begin samples while there are rows: the prompts that must be run for that, and for how many.

        First those whose prompt a row holds already: their rows go on, from the prompt's last token."""
        held = {row.wanted.prompt: number for number, row in enumerate(self._rows)}
        while self._has_next() and self._following.prompt in held:
            wanted = self._append()
            # All but the last token: from that one the first token is predicted.
            self._cache.begin_as(held[wanted.prompt], len(wanted.ids) - 1)
        prompts: list[tuple[Ids, int]] = []
        tokens = 0
        last_prompt = -1
        while self._has_next():
            following = self._following
            if following.prompt == last_prompt:
                prompts[-1] = (following.ids, prompts[-1][1] + 1)
            elif prompts and tokens + len(following.ids) > self._tokens:
                break
            else:
                prompts.append((following.ids, 1))
                tokens += len(following.ids)
                last_prompt = following.prompt
            self._append()
        return prompts

    @property
    def _following(self) -> Wanted:
        """The first one that has not begun."""
        return self._wanted[self._waiting[0]]

    def _has_next(self) -> bool:
        """True if one more can begin. Where there are rows already, memory decides."""
        if not self._waiting or len(self._rows) >= self._cache.count:
            return False
        lengths = [len(row.wanted.ids) + len(row.ids) for row in self._rows]
        longest = max([*lengths, len(self._following.ids)])
        return not self._rows or self._cache.fit(len(self._rows) + 1, longest + 1)

    def _append(self) -> Wanted:
        place = self._waiting.popleft()
        wanted = self._wanted[place]
        stop = None
        if self._sampling.stop:
            stop = StopStrings(self._text.tokenizer, self._sampling.stop, self._sampling.min_tokens)
        self._rows.append(_Row(place, wanted, stop))
        if self._shaping is not None:
            self._shaping.begin(wanted.ids)
        return wanted

    def _take(self, tokens: list[int], logps: list[float]) -> list[tuple[int, Sample]]:
        """Give each row its token; the rows whose samples are over are given up."""
        if self._shaping is not None:
            self._shaping.add(tokens)
        over: list[tuple[int, Sample]] = []
        # From the last row on: a row that is given up is replaced by the last one, which has its token.
        for number in reversed(range(len(self._rows))):
            row = self._rows[number]
            sample = row.add(tokens[number], logps[number], self._stop_ids)
            if sample is None:
                continue
            (sample,) = with_said([sample], self._text)
            over.append((row.place, sample))
            self._give_up(number)
        return over

    def _give_up(self, number: int) -> None:
        """A row is free; the last one takes its place."""
        self._rows[number] = self._rows[-1]
        self._rows.pop()
        self._cache.end(number)
        if self._shaping is not None:
            self._shaping.end(number)
