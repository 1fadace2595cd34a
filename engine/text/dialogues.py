"""Prompt and response together as token ids, as a model that rates whole dialogues reads them.

    dialogue   the chat template's rendering of the whole dialogue, to its very end, tokenised once: the
               template alone decides on BOS, as apply_chat_template does
    pair       prompt and response as the two texts of the tokenizer, with the special tokens that it puts
               around them

Special tokens that a user typed stay text.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.text.chat import Chat, Prompt, Response, TemplateError, Turn, as_text, chat_of, is_plain, turn_of
from engine.text.chat_templates import unusable_is_an_error
from engine.text.guard import Guard
from engine.text.template import Template
from engine.text.tokens import Tokens


@dataclass(frozen=True)
class Reading:
    """A text as a model reads it: token ids. `types`: which of two texts each is of, where that is told."""

    ids: tuple[int, ...]
    types: tuple[int, ...] | None = None


class Dialogues:
    """Reads dialogues by a chat template. `tokenizer`: of the model that is to rate them."""

    def __init__(self, path: Path, template: str, date: str, arguments: Mapping[str, Any]):
        """See `engine.text.Text`. Raises UserError if the tokenizer in `path` or the template cannot work."""
        self._tokens = Tokens(path)
        self.tokenizer = self._tokens.tokenizer
        # What the tokenizer puts around a text of its own accord, such as [CLS] and [SEP].
        self._frame: list[int] = self.tokenizer("").input_ids
        today = datetime.date.fromisoformat(date)
        with unusable_is_an_error(path, "reward"):
            self._template = Template(
                self.tokenizer, template, today, arguments, self._tokens.adds_bos, section="reward"
            )
        self._guard = Guard(self._tokens, template, markers_are_tokens=False)

    def read(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Reading | TemplateError]:
        """Each prompt with its response; or why that cannot be rendered as it is."""
        read: list[Reading | TemplateError] = []
        for prompt, response in zip(prompts, responses, strict=True):
            try:
                read.append(Reading(tuple(self._ids(chat_of(prompt), turn_of(response)))))
            except TemplateError as error:
                read.append(error)
        return read

    def _ids(self, chat: Chat, turn: Turn) -> list[int]:
        """Token ids of a dialogue. Raises TemplateError."""
        typed = self._guard.typed(chat.answered(turn))
        if typed is None:
            rendered = self._template.dialogue(chat, turn)
            ids = self._tokens.ids(rendered)
            if self._tokens.hides_special(rendered, ids):
                raise TemplateError(
                    "the tokenizer reads a special token into the text, since it normalises the text first: "
                    "take the letters out that look like one",
                    "special_token",
                )
            return self._framed(ids)
        hidden_turn = self._guard.hidden_turn(turn, typed)
        try:
            rendered = self._template.dialogue(self._guard.hidden(chat, typed), hidden_turn)
        except TemplateError as error:
            raise TemplateError(typed.restore(str(error)), error.reason) from None
        return self._framed(self._tokens.guarded(rendered, typed))

    def _framed(self, ids: list[int]) -> list[int]:
        """The ids within the tokenizer's own frame, where it has one and the template did not write it.

        An encoder that rates what it finds at [CLS] must find it; no decoder's tokenizer has that token."""
        first = self.tokenizer.cls_token_id
        if first is None or self._frame[:1] != [first] or ids[:1] == [first]:
            return ids
        return [first, *ids, *self._frame[1:]]


class Pairs:
    """Reads a prompt of one user's message and its response as the two texts of a tokenizer."""

    def __init__(self, path: Path):
        """Raises UserError if the tokenizer in `path` does not load."""
        self._tokens = Tokens(path)
        self.tokenizer = self._tokens.tokenizer

    def read(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Reading | TemplateError]:
        """Each prompt with its response as one text; or why it is not a pair of texts."""
        read: list[Reading | TemplateError] = []
        for prompt, response in zip(prompts, responses, strict=True):
            chat = chat_of(prompt)
            roles = [message["role"] for message in chat.messages]
            if roles == ["user"] and not chat.tools and is_plain(chat.messages[0]):
                read.append(self._pair(chat.messages[0]["content"], as_text(turn_of(response))))
            else:
                tools = " with tools" if chat.tools else ""
                error = TemplateError(
                    'reward.input = "pair" takes a prompt that is one message of the user, and this one is '
                    f"{', '.join(roles)}{tools}: render dialogues by a template (reward.chat_template)",
                    "no_pair",
                )
                read.append(error)
        return read

    def _pair(self, prompt: str, response: str) -> Reading | TemplateError:
        encoding = self.tokenizer(prompt, response, split_special_tokens=True)
        types = encoding.get("token_type_ids")
        return Reading(tuple(encoding.input_ids), None if types is None else tuple(types))
