"""What a model is told when it judges or rewrites, and where the quality prompt goes.

- The instructions are files under pipelines/prompts. A file is a Jinja template of one user message.
- The values that fill it are text; they are never read as a template.
- `{{ conversation }}` is the prompt: its text if it is one user message, else its turns by name.
"""

import functools
from collections.abc import Sequence

import jinja2

from engine.text import Messages
from schemas.digest import fingerprint
from schemas.errors import UserError
from schemas.extensions import included


class Instruction:
    """A template, by the name of its file (pipelines/prompts/NAME.txt) or by its path.

    `digest` is of its text.
    """

    def __init__(self, name: str, *values: str):
        """`values` are the names of what it will be given.

        Raises UserError if the file cannot be filled with them.
        """
        self.path = included("prompts", name, ".txt")
        try:
            text = self.path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
            ) from None
        self.digest = fingerprint(text)
        environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        try:
            self._template = environment.from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{self.path}: line {error.lineno} is no template: {error.message}") from None
        if values:
            self(**dict.fromkeys(values, "text"))

    def __call__(self, **values: str) -> list[dict[str, str]]:
        """The messages that ask. Raises UserError if the file uses a value that it is not given."""
        names = ", ".join(sorted(values))
        try:
            content = self._template.render(**values)
        except jinja2.UndefinedError as error:
            raise UserError(f"{self.path}: {error}; it may use {names}") from None
        except (TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise UserError(
                f"{self.path} cannot be filled: {error}; what it is given are texts: {names}"
            ) from None
        return [{"role": "user", "content": content}]


def conversation(messages: Messages) -> str:
    """A prompt as one text."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)


@functools.cache
def quality_text(name: str) -> str:
    """The quality prompt p (Sr-DPO, arXiv 2405.21040), by the name of its file or by its path.

    Raises UserError if the file is empty.
    """
    text = included("prompts", name, ".txt").read_text().strip()
    if not text:
        raise UserError(f"the quality prompt {name} is empty")
    return text


def under(messages: Messages, text: str, place: str = "last_user") -> Sequence[dict[str, str]]:
    """p⊕x: the messages with `text` in front of a user message's content, or at the system message's start.

    `place` is last_user, first_user or system. Without a user message the last message stands for it.
    """
    if place == "system":
        return _with_system_text(messages, text)
    target = len(messages) - 1
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    if users and place == "last_user":
        target = users[-1]
    elif users:
        target = users[0]
    result: list[dict[str, str]] = []
    for number, message in enumerate(messages):
        if number == target:
            result.append(message | {"content": f"{text} {message['content']}"})
        else:
            result.append(message)
    return result


def _with_system_text(messages: Messages, text: str) -> list[dict[str, str]]:
    """The messages with `text` at the start of their system message, which is added if there is none."""
    first = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    return [{"role": "system", "content": f"{text}\n\n{first['content']}"}, *messages[1:]]
