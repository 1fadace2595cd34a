"""Text to token ids and back: the only place where either is made from the other.

- A prompt is rendered by the chat template up to where the assistant speaks; a response is what the template
  puts after that for the whole dialogue, up to the end of the turn.
- Both are joined as ids: no token spans the border, the template alone decides on BOS, and a response ends
  exactly once.
- Special tokens inside a user's text stay text: a "</s>" in a question must not end it.
"""

import datetime
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from engine.text.ends import ends_of
from engine.text.template import Messages, Template, TemplateError
from engine.text.tokens import Tokens
from engine.text.typed import TypedTokens
from schemas.errors import UserError

__all__ = ["Messages", "TemplateError", "Text"]

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
        self._tokens = Tokens(path)
        self.tokenizer = self._tokens.tokenizer
        self._markers_are_tokens = markers == "token"
        today = datetime.date.fromisoformat(date)
        try:
            self.template = Template(self.tokenizer, template, today, arguments or {}, self._tokens.adds_bos)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(
                f"the chat template of {path} is no template: {error} (line {error.lineno}); "
                "give another by model.chat_template"
            ) from None
        # Special tokens that mark an assistant's thoughts, which the template itself looks for in its turns.
        self._thoughts = _thought_markers(self._tokens.all_special, template)
        self._ends = ends_of(path, self._tokens, self.template.borders.end or "")
        self.end_id = self._ends.end_id
        self.stop_ids = self._ends.stop_ids

    def prompts(self, prompts: Sequence[Messages]) -> list[TokenIds | TemplateError]:
        """Token ids of each prompt, up to where the assistant's turn begins; or why it cannot be rendered."""
        return self.openings(prompts, [""] * len(prompts))

    def openings(self, prompts: Sequence[Messages], begun: Sequence[str]) -> list[TokenIds | TemplateError]:
        """Token ids of each prompt up to the assistant's text, and of the beginning of that text.

        Without a beginning: up to where the assistant's turn begins, as `prompts`."""
        result: list[TokenIds | TemplateError] = []
        plain: list[str] = []
        places: list[int] = []
        for place, (messages, beginning) in enumerate(zip(prompts, begun, strict=True)):
            # What the beginning holds was written by somebody too: no special token comes from it.
            typed = self._typed([*messages, {"role": "user", "content": beginning}])
            if typed is not None:
                beginning = typed.hide(beginning)
            try:
                rendered = self._opening(self._hidden(messages, typed), beginning)
            except TemplateError as error:
                result.append(_restored(error, typed))
                continue
            if typed is None:
                # Tokenised below, all in one call.
                result.append([])
                plain.append(rendered)
                places.append(place)
            else:
                result.append(self._tokens.guarded(rendered, typed))
        for place, text, ids in zip(places, plain, self._tokens.ids_of_all(plain), strict=True):
            result[place] = self._checked(text, ids)
        return result

    def responses(
        self, prompts: Sequence[Messages], responses: Sequence[Sequence[str]]
    ) -> list[list[TokenIds | TemplateError]]:
        """For each prompt the token ids of its responses, with `end_id` at the end.

        A TemplateError where a prompt or the dialogue with a response cannot be rendered as they are."""
        result: list[list[TokenIds | TemplateError]] = []
        plain: list[tuple[str, str]] = []
        places: list[tuple[int, int]] = []
        for messages, texts in zip(prompts, responses, strict=True):
            of_prompt: list[TokenIds | TemplateError] = []
            result.append(of_prompt)
            prompt = None
            for text in texts:
                typed = self._typed(messages, text)
                try:
                    hidden = self._hidden(messages, typed)
                    if prompt is None or typed is not None:
                        prompt = self.template.prompt(hidden)
                    turn = self._turn(hidden, prompt, text, typed)
                except TemplateError as error:
                    of_prompt.append(_restored(error, typed))
                    continue
                if typed is None:
                    places.append((len(result) - 1, len(of_prompt)))
                    of_prompt.append([])
                    plain.append((prompt, turn))
                else:
                    of_prompt.append(self._ended(self._tokens.guarded_continuation(prompt, turn, typed)))
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

    def _typed(self, messages: Messages, response: str | None = None) -> TypedTokens | None:
        """Hides the special tokens that stand in the messages and in the response; None if there are none."""
        if self._tokens.special is None:
            return None
        turns = [(message["role"], message["content"]) for message in messages]
        if response is not None:
            turns.append(("assistant", response))
        for role, text in turns:
            if self._is_guarded(role) and self._tokens.has_special(text, self._left(role)):
                return TypedTokens(self._tokens.special, [text for _, text in turns])
        return None

    def _left(self, role: str) -> Collection[str]:
        """The special tokens that stay what they are in a turn of this role."""
        return self._thoughts if role == "assistant" else ()

    def _is_guarded(self, role: str) -> bool:
        """True if special tokens in a turn of this role are text."""
        return role != "assistant" or not self._markers_are_tokens

    def _hidden(self, messages: Messages, typed: TypedTokens | None) -> Messages:
        """The messages with stand-ins for the special tokens in them."""
        if typed is None:
            return messages
        hidden: list[dict[str, str]] = []
        for message in messages:
            if self._is_guarded(message["role"]):
                content = typed.hide(message["content"], self._left(message["role"]))
                message = {**message, "content": content}
            hidden.append(message)
        return hidden

    def _opening(self, messages: Messages, beginning: str) -> str:
        if not beginning:
            return self.template.prompt(messages)
        return self.template.opening(messages) + beginning

    def _turn(self, messages: Messages, prompt: str, response: str, typed: TypedTokens | None) -> str:
        """What follows the rendered prompt, up to the end of the assistant's turn."""
        response = self._without_own_end(response)
        if typed is not None and self._is_guarded("assistant"):
            response = typed.hide(response, self._left("assistant"))
        return self.template.response(messages, prompt, response) + self._ends.turn_end

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


def _thought_markers(special: Collection[str], template: str) -> set[str]:
    """The special tokens such as <think> and [/THINK], if the template looks for one of them."""
    markers = {token for token in special if "think" in token.lower()}
    return markers if any(token in template for token in markers) else set()


def _restored(error: TemplateError, typed: TypedTokens | None) -> TemplateError:
    """The error with what a user typed in the place of its stand-ins."""
    if typed is None:
        return error
    return TemplateError(typed.restore_shown(str(error)), error.reason)
