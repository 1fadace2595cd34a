"""Text to token ids for one tokenizer: nothing added, and special tokens only where they are meant.

A text that continues another is tokenised so that its ids are those that a model sees after the other's: no
space is put in front of it where none stands, and no token spans the border.
"""

import re
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from engine.text.typed import TypedTokens
from schemas.tokenizer import load_tokenizer

# What a text is put behind, to be tokenised as one that continues another.
_ANCHORS = ("\n", ":")
_END = 96  # characters at a long text's end that are tried for the whole
_FIRST_TOKENS = 4  # of such an end, which may differ from those in the whole
_TAIL = 256  # characters at a text's end in which a special token is looked for first


class Tokens:
    """A tokenizer. Several threads may use it."""

    def __init__(self, path: Path):
        """Raises UserError if the tokenizer in the folder does not load."""
        self.tokenizer = load_tokenizer(path)
        # split_special_tokens is a field of the one tokenizer underneath, so two threads at once would get
        # each other's ids.
        self._lock = threading.Lock()
        # Warnings about the length that the tokenizer believes in are noise: the engine checks max_length.
        self.tokenizer.model_max_length = int(1e30)
        bos = self.tokenizer.bos_token_id
        self.adds_bos = bos is not None and self.tokenizer("").input_ids[:1] == [bos]
        added = list(self.tokenizer.added_tokens_decoder.values())
        special = [token for token in added if token.special]
        named = set(self.tokenizer.all_special_tokens)
        # Not only the named ones: a chat model's turn markers are often special without a name.
        self.all_special = named | {token.content for token in special}
        self.special = _pattern(self.all_special)
        # Special tokens that take the white space behind or before them.
        self._strips_right = {token.content for token in special if token.rstrip}
        self._strips_left = {token.content for token in special if token.lstrip}
        # A tokenizer that looks for special tokens in normalised text finds some that nobody typed.
        self._normalises = any(token.normalized for token in special)
        self.added = _markers(added, named)
        self._prefixes_texts = self._ids_behind("\n", "x", False) != self.ids("x")
        self._prefixes_after_special = self._looks_after_special()

    def ids(self, text: str) -> list[int]:
        """Token ids of a text. What looks like a special token is one."""
        ids: list[int] = self._encode(text, split_special_tokens=False)
        return ids

    def ids_of_all(self, texts: Sequence[str]) -> list[list[int]]:
        """`ids` of each text, in one call."""
        if not texts:
            return []
        all_ids: list[list[int]] = self._encode(list(texts), split_special_tokens=False)
        return all_ids

    def plain_ids(self, text: str) -> list[int]:
        """Token ids of a text in which a special token is text as any other."""
        if not text:
            return []
        ids: list[int] = self._encode(text, split_special_tokens=True)
        return ids

    def id_of(self, token: str) -> int:
        """The id of an added or special token."""
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        assert isinstance(token_id, int)
        return token_id

    def has_special(self, text: str, leave: Collection[str] = ()) -> bool:
        """True if a special token stands in the text, other than those to `leave`."""
        if self.special is None:
            return False
        return any(special[0] not in leave for special in self.special.finditer(text))

    def hides_special(self, text: str, ids: Sequence[int]) -> bool:
        """True if these ids of a text have more special tokens than stand in it: normalising made them."""
        if not self._normalises or self.special is None:
            return False
        special_ids = {self.id_of(token) for token in self.all_special}
        found = sum(token in special_ids for token in ids)
        return found > len(self.special.findall(text))

    def continuations(self, texts: Sequence[tuple[str, str]]) -> list[list[int]]:
        """For each (text, more) the token ids of `more` as they follow those of `text`."""
        tails = [self._tail(text) for text, _ in texts]
        ends = self._short_ends(list(dict.fromkeys(tails)))
        joined: list[str] = []
        for tail, (_, more) in zip(tails, texts, strict=True):
            end, _ = ends[tail]
            joined.append(end + more)
        result: list[list[int]] = []
        for tail, ids, (_, more) in zip(tails, self.ids_of_all(joined), texts, strict=True):
            _, before = ends[tail]
            if ids[: len(before)] == before:
                result.append(ids[len(before) :])
            else:
                # A token would span the border: no model sees such a one after the prompt's ids.
                result.append(self._continuation(more, split_special_tokens=False))
        return result

    def guarded(self, text: str, typed: TypedTokens) -> list[int]:
        """Token ids of a rendering in which stand-ins hide what users typed: that becomes text."""
        return self.guarded_continuation("", text, typed)

    def guarded_continuation(self, text: str, more: str, typed: TypedTokens) -> list[int]:
        """The token ids of `more` as they follow those of `text`; both are renderings with stand-ins."""
        assert self.special is not None
        ids: list[int] = []
        begin = 0
        last = ""  # special token
        before = text
        for special in self.special.finditer(text):
            before = text[special.end() :]
            last = special[0]
        for special in self.special.finditer(more):
            segment = more[begin : special.start()]
            if special[0] in self._strips_left:
                segment = segment.rstrip()
            ids += self._segment(before, segment, last, typed)
            ids.append(self.id_of(special[0]))
            before = ""
            last = special[0]
            begin = special.end()
        return ids + self._segment(before, more[begin:], last, typed)

    def _segment(self, before: str, text: str, special: str, typed: TypedTokens) -> list[int]:
        """Token ids of a text without special tokens of its own, behind `special` (if any) and `before`.

        Special tokens that a user typed are text in it."""
        if special in self._strips_right:
            before = before.lstrip()
            text = text if before else text.lstrip()
        text = typed.restore(text)
        if not text:
            return []
        if not before:
            prefixed = self._prefixes_after_special if special else True
            return self.plain_ids(text) if prefixed else self._continuation(text, split_special_tokens=True)
        before = typed.restore(before)
        ids_before = self.plain_ids(before)
        ids = self.plain_ids(before + text)
        if ids[: len(ids_before)] == ids_before:
            return ids[len(ids_before) :]
        return self._continuation(text, split_special_tokens=True)

    def _tail(self, text: str) -> str:
        """The end of a text from its last special token on: what is before does not change what follows."""
        if self.special is None:
            return text
        for begin in (max(0, len(text) - _TAIL), 0):
            places = [special.start() for special in self.special.finditer(text, begin)]
            if places:
                return text[places[-1] :]
        return text

    def _short_ends(self, texts: Sequence[str]) -> dict[str, tuple[str, list[int]]]:
        """For each text an end of it and that end's token ids: the whole text where it is short.

        The end of a long one is taken for it if it is tokenised as in the whole, but for its first tokens:
        then what follows is tokenised alike after both, and the text once for all of its responses."""
        ids_of_text = dict(zip(texts, self.ids_of_all(texts), strict=True))
        ends: dict[str, tuple[str, list[int]]] = {}
        for text, ids in ids_of_text.items():
            ends[text] = (text, ids)
        long = [text for text in texts if len(text) > 2 * _END]
        cut = [text[-_END:] for text in long]
        for text, end, ids in zip(long, cut, self.ids_of_all(cut), strict=True):
            compared = len(ids) - _FIRST_TOKENS
            is_enough = compared >= _FIRST_TOKENS
            if is_enough and ids[_FIRST_TOKENS:] == ids_of_text[text][-compared:]:
                ends[text] = (end, ids)
        return ends

    def _continuation(self, text: str, split_special_tokens: bool) -> list[int]:
        """Token ids of a text as one that continues another, whose last token it does not merge with."""
        if self._prefixes_texts:
            for anchor in _ANCHORS:
                ids = self._ids_behind(anchor, text, split_special_tokens)
                if ids is not None:
                    return ids
        alone: list[int] = self._encode(text, split_special_tokens)
        return alone

    def _ids_behind(self, anchor: str, text: str, split_special_tokens: bool) -> list[int] | None:
        """Token ids of a text that follows the anchor; None where a token spans the border."""
        before = self._encode(anchor, split_special_tokens)
        ids: list[int] = self._encode(anchor + text, split_special_tokens)
        if ids[: len(before)] != before:
            return None
        return ids[len(before) :]

    def _looks_after_special(self) -> bool:
        """True if a text after a special token is tokenised as one that stands alone."""
        for token in self.tokenizer.all_special_tokens:
            after = self.ids(token + "x")[1:]
            return after == self.ids("x")
        return True

    def _encode(self, text: str | list[str], split_special_tokens: bool) -> Any:
        with self._lock:
            encoding = self.tokenizer(
                text, add_special_tokens=False, split_special_tokens=split_special_tokens
            )
        return encoding.input_ids


def _markers(added: Sequence[Any], named: set[str]) -> re.Pattern[str] | None:
    """Matches every token that stands beside the vocabulary, special or not; line ends are no markers."""
    return _pattern({token.content for token in added if token.content.strip()} | named)


def _pattern(tokens: set[str]) -> re.Pattern[str] | None:
    """Matches any of the tokens, the longest one first; None if there is none."""
    longest_first = sorted(tokens - {""}, key=len, reverse=True)
    if not longest_first:
        return None
    return re.compile("|".join(map(re.escape, longest_first)))
