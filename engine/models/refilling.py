"""Samples side by side, of which each that ends makes place for the next: one long sample holds no others.

A prompt is run once for the samples of it that begin together. One that begins while another of its prompt is
under way takes over what that one's row has of the prompt.
"""

from collections.abc import Generator, Sequence
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
    rows: int,
    tokens: int,
) -> Generator[tuple[int, Sample]]:
    """The place of each wanted sample and the sample, as they end; up to `rows` are drawn side by side.

    `tokens`: of prompts that begin in one pass, unless a single one has more. Of a prompt whose samples stand
    together among the wanted ones little is run twice."""
    drawing = _Drawing(model, text, wanted, sampling, rows, tokens)
    with attending(model, DECODING), packed_linears(model):
        while drawing.is_under_way():
            yield from drawing.step()


class _Drawing:
    """The rows of `draw_refilled`; `_rows`, `_cache` and `_shaping` have them in the same order."""

    def __init__(
        self,
        model: PreTrainedModel,
        text: Text,
        wanted: Sequence[Wanted],
        sampling: Sampling,
        rows: int,
        tokens: int,
    ):
        self._decoder, self._head = decoder_and_head(model)
        self._text = text
        self._wanted = wanted
        self._next = 0  # the place of the first one that has not begun
        self._sampling = sampling
        self._tokens = tokens
        self._stop_ids = all_stop_ids(text, sampling)
        self._shaping = shaping_of(text, sampling, self._stop_ids)
        self._cache = Rows(rows)
        self._rows: list[_Row] = []

    def is_under_way(self) -> bool:
        """False when all samples are over."""
        return bool(self._rows) or self._next < len(self._wanted)

    def step(self) -> list[tuple[int, Sample]]:
        """Draw a token in every row; the samples that are over with it."""
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

    def _begin(self) -> list[tuple[Ids, int]]:
        """Begin samples while there are rows: the prompts that must be run for that, and for how many.

        First those whose prompt a row holds already: their rows go on, from the prompt's last token."""
        held = {row.wanted.prompt: number for number, row in enumerate(self._rows)}
        while self._has_next() and self._wanted[self._next].prompt in held:
            wanted = self._append()
            # All but the last token: from that one the first token is predicted.
            self._cache.begin_as(held[wanted.prompt], len(wanted.ids) - 1)
        prompts: list[tuple[Ids, int]] = []
        tokens = 0
        last_prompt = -1
        while self._has_next():
            following = self._wanted[self._next]
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

    def _has_next(self) -> bool:
        return len(self._rows) < self._cache.count and self._next < len(self._wanted)

    def _append(self) -> Wanted:
        wanted = self._wanted[self._next]
        stop = None
        if self._sampling.stop:
            stop = StopStrings(self._text.tokenizer, self._sampling.stop, self._sampling.min_tokens)
        self._rows.append(_Row(self._next, wanted, stop))
        if self._shaping is not None:
            self._shaping.begin(wanted.ids)
        self._next += 1
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
            self._rows[number] = self._rows[-1]
            self._rows.pop()
            self._cache.end(number)
            if self._shaping is not None:
                self._shaping.end(number)
        return over
