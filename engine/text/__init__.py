"""Text to token ids and back: the only place where either is made from the other.

- A prompt is rendered by the chat template up to where the assistant speaks; a response is what the template
  puts after that for the whole dialogue, up to the end of the turn.
- Both are joined as ids: no token spans the border, the template alone decides on BOS, and a response ends
  exactly once.
- Special tokens inside a user's text stay text: a "</s>" in a question must not end it.
"""

import copy
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.text.chat import Chat, Messages, Prompt, Response, TemplateError, Turn, chat_of, texts_in, turn_of
from engine.text.chat_templates import unusable_is_an_error
from engine.text.ends import ends_of
from engine.text.guard import Guard
from engine.text.template import Template
from engine.text.tokens import Tokens
from engine.text.typed import TypedTokens
from schemas.model_errors import usable

__all__ = ["Chat", "Messages", "Prompt", "Response", "TemplateError", "Text", "Turn"]

TokenIds = list[int]


class Text:
    """Token ids of prompts and responses for one tokenizer and one chat template.

    `end_id`: the token that ends a response: what the template puts after an assistant's turn, else EOS.
    `stop_ids`: it, and all others at which sampling stops."""

    def __init__(
        self,
        path: Path,
        template: str,
        date: str = "2024-07-26",
        arguments: Mapping[str, Any] | None = None,
        markers: str = "text",
    ):
        """`date` (YYYY-MM-DD) is today for a template that asks for it, `arguments` are its own variables.

        `markers`: what a special token inside an assistant's text is: `text`, or `token`. Raises UserError
        if the tokenizer in `path` or the template cannot work at all."""
        self._path = path
        self._template_text = template
        self._today = datetime.date.fromisoformat(date)
        self._markers_are_tokens = markers == "token"
        with usable(path):
            self._tokens = Tokens(path)
            self.tokenizer = self._tokens.tokenizer
            self._guard = Guard(self._tokens, template, self._markers_are_tokens)
            self._take_template(arguments or {}, "model")

    def with_arguments(self, arguments: Mapping[str, Any], section: str) -> "Text":
        """The same with more variables for its template, which the recipe's `section` gives; over its own.

        Raises UserError for one that the template does not take."""
        other = copy.copy(self)
        other._take_template({**self._arguments, **arguments}, section)
        return other

    def _take_template(self, arguments: Mapping[str, Any], section: str) -> None:
        self._arguments = arguments
        tokens = self._tokens
        with unusable_is_an_error(self._path, "model"):
            self.template = Template(
                self.tokenizer, self._template_text, self._today, arguments, tokens.adds_bos, section
            )
        self._ends = ends_of(self._path, tokens, self.template.borders.end or "")
        self.end_id = self._ends.end_id
        self.stop_ids = self._ends.stop_ids
        self.template.call_ends = self._special_ends()

    def _special_ends(self) -> list[str]:
        """The special tokens at which sampling stops."""
        names = self.tokenizer.convert_ids_to_tokens(sorted(self.stop_ids))
        return [name for name in names if isinstance(name, str) and self._tokens.has_special(name)]

    def prompts(self, prompts: Sequence[Prompt]) -> list[TokenIds | TemplateError]:
        """Token ids of each prompt, up to where the assistant's turn begins; or why it cannot be rendered."""
        return self.openings(prompts, [""] * len(prompts))

    def openings(self, prompts: Sequence[Prompt], begun: Sequence[str]) -> list[TokenIds | TemplateError]:
        """Token ids of each prompt up to the assistant's text, and of the beginning of that text.

        Without a beginning: up to where the assistant's turn begins, as `prompts`."""
        result: list[TokenIds | TemplateError] = []
        plain: list[str] = []
        places: list[int] = []
        for place, (prompt, beginning) in enumerate(zip(prompts, begun, strict=True)):
            chat = chat_of(prompt)
            typed = None
            try:
                # What the beginning holds was written by somebody too: no special token comes from it.
                typed = self._guard.typed(chat.answered({"role": "user", "content": beginning}))
                if typed is not None:
                    beginning = typed.hide(beginning)
                rendered = self._opening(self._guard.hidden(chat, typed), beginning)
                guarded = [] if typed is None else self._tokens.guarded(rendered, typed)
            except TemplateError as error:
                result.append(_restored(error, typed))
                continue
            result.append(guarded)
            if typed is None:
                # Tokenised below, all in one call.
                plain.append(rendered)
                places.append(place)
        for place, text, ids in zip(places, plain, self._tokens.ids_of_all(plain), strict=True):
            result[place] = self._checked(text, ids)
        return result

    def responses(
        self, prompts: Sequence[Prompt], responses: Sequence[Sequence[Response]]
    ) -> list[list[TokenIds | TemplateError]]:
        """For each prompt the token ids of its responses, with `end_id` (of a call, another end) at the end.

        A TemplateError where a prompt or the dialogue with a response cannot be rendered as they are."""
        result: list[list[TokenIds | TemplateError]] = []
        plain: list[tuple[str, str]] = []
        places: list[tuple[int, int]] = []
        for asked, answers in zip(prompts, responses, strict=True):
            chat = chat_of(asked)
            of_prompt: list[TokenIds | TemplateError] = []
            result.append(of_prompt)
            prompt = None
            for answer in map(turn_of, answers):
                typed = None
                try:
                    typed = self._guard.typed(chat.answered(answer))
                    hidden = self._guard.hidden(chat, typed)
                    if prompt is None or typed is not None:
                        prompt = self.template.prompt(hidden)
                    turn = self._turn(hidden, prompt, answer, typed)
                    if typed is not None:
                        guarded = self._tokens.guarded_continuation(prompt, turn, typed)
                except TemplateError as error:
                    of_prompt.append(_restored(error, typed))
                    prompt = None if typed is not None else prompt
                    continue
                if typed is None:
                    places.append((len(result) - 1, len(of_prompt)))
                    of_prompt.append([])
                    plain.append((prompt, turn))
                else:
                    of_prompt.append(self._ended(guarded))
                    prompt = None  # it has stand-ins
        for (row, column), (_, turn), ids in zip(
            places, plain, self._tokens.continuations(plain), strict=True
        ):
            checked = self._checked(turn, ids)
            result[row][column] = checked if isinstance(checked, TemplateError) else self._ended(checked)
        return result

    def ids(self, text: str) -> TokenIds:
        """Token ids of a text, nothing added. What looks like a special token is one."""
        return self._tokens.ids(text)

    @property
    def template_ends_turns(self) -> bool:
        """False if the template puts no token after an assistant's turn, so that EOS is put there."""
        return self._ends.is_rendered

    def has_special_tokens(self, text: str) -> bool:
        """True if a special token stands, as text, in the text."""
        return self._tokens.has_special(text)

    def has_typed_tokens(self, chat: Chat) -> bool:
        """True if one stands, as text, anywhere in the dialogue: in an argument, a tool, a thought …"""
        return any(map(self._tokens.has_special, texts_in([*chat.messages, *chat.tools])))

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The texts of sampled responses, without the token that ended them or any other special one."""
        if not rows:
            return []
        return self.tokenizer.batch_decode(
            [list(row) for row in rows],
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )

    def spellings(self, word: str) -> list[TokenIds]:
        """The tokens of a word where a text begins, after a space, and after a line's end."""
        spellings = [self._tokens.ids(word), self._tokens.ids(" " + word)]
        # After a line's end tokenizers that put a space in front of every text put none.
        line_end = self._tokens.ids("\n")
        after_line_end = self._tokens.ids("\n" + word)
        if after_line_end[: len(line_end)] == line_end:
            spellings.append(after_line_end[len(line_end) :])
        return spellings

    def remarks(self) -> list[str]:
        """What a user should know of how this template and tokenizer are read, each as a line."""
        lines = [f"responses end with {self.tokenizer.convert_ids_to_tokens(self.end_id)} ({self.end_id})"]
        if not self._ends.is_rendered and self._ends.turn_end.strip():
            lines.append(
                f"the chat template ends a response with {self._ends.turn_end!r}, which is no token of this "
                "tokenizer: it is trained as text, with the end token behind it"
            )
        header = self.template.borders.header
        if header:
            lines.append(
                f"the chat template has no generation prompt: prompts end with {header!r}, "
                "which it puts before a response"
            )
        if self.template.wants_parts:
            lines.append("the chat template takes contents as parts: texts are given as [{type: text}]")
        return lines

    def _checked(self, text: str, ids: TokenIds) -> TokenIds | TemplateError:
        """The ids of a rendered text, unless the tokenizer has read a special token into it."""
        if self._tokens.hides_special(text, ids):
            return TemplateError(
                "the tokenizer reads a special token into the text, since it normalises the text first: take "
                "the letters out that look like one",
                "special_token",
            )
        return ids

    def _opening(self, chat: Chat, beginning: str) -> str:
        if not beginning:
            return self.template.prompt(chat)
        return self.template.opening(chat) + beginning

    def _turn(self, chat: Chat, prompt: str, response: Turn, typed: TypedTokens | None) -> str:
        """What follows the rendered prompt, up to the end of the assistant's turn."""
        if "tool_calls" not in response:
            response = response | {"content": self._without_own_end(response["content"])}
        turn = self._guard.hidden_turn(response, typed)
        text, has_own_end = self.template.response(chat, prompt, turn)
        return text if has_own_end else text + self._ends.turn_end

    def _without_own_end(self, response: str) -> str:
        """The response without an end token that it brings itself, since the template puts one there.

        Raises TemplateError where special tokens are text: it would be spelled out before the real one."""
        bare = response.rstrip()
        for end_id in self.stop_ids:
            token = self.tokenizer.convert_ids_to_tokens(end_id)
            if isinstance(token, str) and bare.endswith(token) and self._tokens.has_special(token):
                if self._markers_are_tokens:
                    return bare.removesuffix(token)
                raise TemplateError(
                    f"the response ends with {token} as text, which would stand before the one that ends it: "
                    'take it off, or set model.response_markers = "token"',
                    "ends_twice",
                )
        return response

    def _ended(self, ids: TokenIds) -> TokenIds | TemplateError:
        """A response's ids with the one token that ends it."""
        if not self._ends.is_rendered:
            ids = [*ids, self.end_id]
        if self._markers_are_tokens and self.stop_ids.intersection(ids[:-1]):
            return TemplateError("the response holds a token that ends it before its end", "end_within")
        return ids


def _restored(error: TemplateError, typed: TypedTokens | None) -> TemplateError:
    """The error with what a user typed in the place of its stand-ins."""
    if typed is None:
        return error
    try:
        said = typed.restore(str(error))
    except TemplateError:
        said = str(error)
    return TemplateError(said, error.reason)
