"""What a model is told when it judges or rewrites, and where the quality prompt goes.

- The instructions are files under pipelines/prompts. A file is a Jinja template of one user message.
- The values that fill it are text; they are never read as a template.
- `{{ conversation }}` is the prompt: its text if it is one user message, else its turns by name; first the
  tools, if there are any.
- A file for a judge may begin the answer, since many a chat model says "Rating: 5" and not "5":
  `{%- set answer %}Rating: {% endset %}`. The spaces within it count.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import jinja2.meta

from engine.text import Messages, Turn
from engine.text.chat import as_json
from engine.text.sandbox import LimitExceeded, Refused, Sandbox
from schemas.digest import fingerprint
from schemas.errors import UserError
from schemas.extensions import included
from schemas.plain_files import MOST_TEXT, plain_text, read_plain

# The variable that a file sets where it begins the answer.
_ANSWER = "answer"


@dataclass(frozen=True)
class Question:
    """What a model is asked, and what its answer begins with: words that it need not find itself."""

    messages: Messages
    begun: str = ""


class Instruction:
    """A template, by the name of its file (pipelines/prompts/NAME.txt) or by its path.

    `digest` is of its text; `uses` are the names of the values in it.
    """

    def __init__(self, name: str, *values: str, optional: Sequence[str] = ()):
        """`values` are the names of what it will be given; those of `optional` may be empty.

        Raises UserError if the file cannot be filled with them.
        """
        self.path = included("prompts", name, ".txt")
        text = read(self.path).strip()
        self.digest = fingerprint(text)
        # A file may be anybody's: it may fill in values and do nothing else.
        self._environment = Sandbox(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        try:
            self._template = self._environment.compiled(text)
            self.uses = jinja2.meta.find_undeclared_variables(self._environment.parse(text))
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{self.path}: line {error.lineno} is no template: {error.message}") from None
        except LimitExceeded as error:
            raise UserError(f"{self.path} is no template: {error}") from None
        if values:
            filled = dict.fromkeys([*values, *optional], "text")
            self.question(**filled)
            self.question(**filled | dict.fromkeys(optional, ""))

    def __call__(self, **values: str) -> Messages:
        """The messages that ask for a whole response.

        Raises UserError if the file uses a value that it is not given, or begins the response."""
        question = self.question(**values)
        if question.begun:
            raise UserError(
                f"{self.path} begins the answer ({{% set {_ANSWER} %}}): only a judge's file may do that"
            )
        return question.messages

    def question(self, **values: object) -> Question:
        """What asks, and the begun answer. Raises UserError if the file uses a value that it is not given."""
        names = ", ".join(sorted(values))
        try:
            content, variables = self._environment.rendered(self._template, values)
        except jinja2.UndefinedError as error:
            raise UserError(f"{self.path}: {error}; it may use {names}") from None
        except LimitExceeded as error:
            raise UserError(f"{self.path} cannot be filled: {error}; let it do less") from None
        except Refused as error:
            raise UserError(
                f"{self.path} cannot be filled: {error}; what it is given are texts: {names}"
            ) from None
        begun = str(variables.get(_ANSWER, ""))
        return Question([{"role": "user", "content": content}], begun)


def read(path: Path) -> str:
    """A file's text. Raises UserError if it is not UTF-8."""
    try:
        return plain_text(read_plain(path, MOST_TEXT))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from None


def conversation(messages: Messages, chat: str | None = None) -> str:
    """A prompt as one text. `chat`: its column of that name, where the tools are that the model may call."""
    tools = json.loads(chat).get("tools", []) if chat else []
    if len(messages) == 1 and not tools:
        text: str = messages[0]["content"]
        return text
    parts: list[str] = []
    if tools:
        parts.append("\n".join(["Tools:", *map(as_json, tools)]))
    for message in messages:
        parts.append(f"{message['role'].capitalize()}: {message['content']}")
    return "\n\n".join(parts)


def quality_text(name: str) -> str:
    """The quality prompt p (Sr-DPO, arXiv 2405.21040), by the name of its file or by its path.

    Raises UserError if the file is empty.
    """
    text = read(included("prompts", name, ".txt")).strip()
    if not text:
        raise UserError(f"the quality prompt {name} is empty")
    return text


def under(messages: Messages, text: str, place: str = "last_user") -> Messages:
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
    result: list[Turn] = []
    for number, message in enumerate(messages):
        if number == target:
            result.append(message | {"content": f"{text} {message['content']}"})
        else:
            result.append(message)
    return result


def _with_system_text(messages: Messages, text: str) -> Messages:
    """The messages with `text` at the start of their system message, which is added if there is none."""
    first = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    return [{"role": "system", "content": f"{text}\n\n{first['content']}"}, *messages[1:]]
