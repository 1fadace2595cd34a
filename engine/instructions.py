"""What a model is told when it judges or rewrites: files under pipelines/prompts, and where the quality prompt goes.

A file is a Jinja template of one user message; what it is filled with is text and never read as a template. `{{ conversation }}` is the
prompt: its text where it is one user message, else its turns by name.
"""

import functools
from collections.abc import Sequence

import jinja2

from engine.text import Messages
from schemas.commit import fingerprint
from schemas.errors import UserError
from schemas.recipe import included

PLACES = ("last_user", "first_user", "system")


class Instruction:
    """A template by the name of its file (pipelines/prompts/NAME.txt) or by its path; `digest` is of its text."""

    def __init__(self, name: str, *values: str):
        """`values`: what it will be given; a file that cannot be filled with them is refused now."""
        self.path = included("prompts", name, ".txt")
        try:
            text = self.path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
            ) from None
        self.digest = fingerprint(text)
        try:
            self._template = jinja2.Environment(
                undefined=jinja2.StrictUndefined, keep_trailing_newline=True
            ).from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{self.path}: line {error.lineno} is no template: {error.message}") from None
        if values:
            self(**dict.fromkeys(values, "text"))

    def __call__(self, **values: str) -> list[dict[str, str]]:
        """The messages that ask; raises UserError where the file uses a value that there is not."""
        try:
            content = self._template.render(**values)
        except jinja2.UndefinedError as error:
            raise UserError(f"{self.path}: {error}; it may use {', '.join(sorted(values))}") from None
        except (TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise UserError(
                f"{self.path} cannot be filled: {error}; what it is given are texts: {', '.join(sorted(values))}"
            ) from None
        return [{"role": "user", "content": content}]


def conversation(messages: Messages) -> str:
    """A prompt as one text."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)


@functools.cache
def quality_text(name: str) -> str:
    """The quality prompt p (methods: Sr-DPO), by the name of its file or by its path."""
    text = included("prompts", name, ".txt").read_text().strip()
    if not text:
        raise UserError(f"the quality prompt {name} is empty")
    return text


def under(messages: Messages, text: str, place: str = "last_user") -> Sequence[dict[str, str]]:
    """p⊕x: the messages with `text` in front of the last or first user message's content, or as the system message's beginning."""
    if place == "system":
        own = messages[0]["content"] if messages[0]["role"] == "system" else None
        rest = messages[1:] if own is not None else messages
        return [{"role": "system", "content": text if own is None else f"{text}\n\n{own}"}, *rest]
    users = [number for number, message in enumerate(messages) if message["role"] == "user"] or [
        len(messages) - 1
    ]
    at = users[-1] if place == "last_user" else users[0]
    return [
        message | {"content": f"{text} {message['content']}"} if number == at else message
        for number, message in enumerate(messages)
    ]
