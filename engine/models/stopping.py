"""Where a sample ends beside the model's own end token: at a stop string, or at a stop token of the recipe.

Both backends end their samples by this code, so both cut at the same place. What such a sample says is kept
as text, since its token ids say more than it: they hold the stop string, or the token that ended it.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from tokenizers.decoders import DecodeStream

from engine.models import Sample
from engine.text import Text
from schemas.sections import Sampling

# What tokenizers says where a token changes the text before it, which is then given out already.
_INVALID_PREFIX = "Invalid prefix"


class StopStrings:
    """Looks for stop strings in a sample's text as its tokens come.

    `length`: tokens seen; `said`: the text before the stop string once one is complete, else None."""

    def __init__(self, tokenizer: Any, strings: Sequence[str], min_tokens: int):
        """`tokenizer`: transformers'. A string that the first `min_tokens` tokens complete does not count."""
        self.length = 0
        self.said: str | None = None
        self._text = ""
        self._strings = strings
        self._min_tokens = min_tokens
        self._decoder = _decoder(tokenizer)

    def add(self, token: int) -> bool:
        """Take the next token, which is none that ends the sample; True once a stop string is complete."""
        assert self.said is None, "a sample that is over goes on"
        seen = len(self._text)
        self._text += self._decoder.step(token)
        self.length += 1
        if self.length > self._min_tokens:
            begin = first_stop(self._text, seen, self._strings)
            if begin is not None:
                self.said = self._text[:begin]
        return self.said is not None


def first_stop(text: str, seen: int, strings: Sequence[str]) -> int | None:
    """Where the stop string begins that is complete first, None if none is.

    Only those count that are not complete within the first `seen` characters. Of several that end together
    the first of `strings` is taken, as vLLM does."""
    begin = None
    first_end = len(text) + 1
    for string in strings:
        place = text.find(string, max(0, seen - len(string) + 1))
        if place >= 0 and place + len(string) < first_end:
            begin = place
            first_end = place + len(string)
    return begin


def _decoder(tokenizer: Any) -> "_Stream | _Whole":
    """How the tokenizer's tokens become text one after another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return _Whole(tokenizer) if backend is None else _Stream(backend)


class _Stream:
    """The text that each token adds, held back until its characters are whole."""

    def __init__(self, backend: Any):
        self._backend = backend
        self._stream = DecodeStream(skip_special_tokens=True)

    def step(self, token: int) -> str:
        try:
            return self._stream.step(self._backend, token) or ""
        except Exception as error:  # tokenizers raises bare ones
            if not str(error).startswith(_INVALID_PREFIX):
                raise
            # As vLLM: bytes that are no UTF-8 came before, and the text begins anew.
            self._stream = DecodeStream(skip_special_tokens=True)
            return self._stream.step(self._backend, token) or ""


class _Whole:
    """The same for a tokenizer that has no such stream: the whole is decoded after each token."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._given = ""

    def step(self, token: int) -> str:
        self._ids.append(token)
        text: str = self._tokenizer.decode(
            self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        if text.endswith("\ufffd"):
            return ""
        more = text[len(self._given) :]
        self._given = text
        return more


def all_stop_ids(text: Text, sampling: Sampling) -> list[int]:
    """The tokens at which sampling stops: the model's own and the recipe's."""
    return sorted(text.stop_ids.union(sampling.stop_token_ids))


def with_said(samples: Sequence[Sample], text: Text) -> list[Sample]:
    """The samples; one that a stop token of the recipe ended has what it says before that as its text."""
    result: list[Sample] = []
    for sample in samples:
        if sample.said is None and _ends_at_other(sample, text.stop_ids):
            (said,) = text.decode([sample.ids[:-1]])
            sample = replace(sample, said=said)
        result.append(sample)
    return result


def texts_of(samples: Sequence[Sample], text: Text) -> list[str]:
    """What each sample says."""
    texts: list[str] = []
    decoded = text.decode([sample.ids for sample in samples])
    for sample, own in zip(samples, decoded, strict=True):
        texts.append(own if sample.said is None else sample.said)
    return texts


def _ends_at_other(sample: Sample, stop_ids: Collection[int]) -> bool:
    """True if a token ended the sample that is none of the model's end tokens."""
    return sample.finish_reason == "stop" and sample.ids[-1] not in stop_ids
