"""A chat template as Jinja sees it: rendered as transformers renders it, in our sandbox.

The environment has what that of `apply_chat_template` (transformers.utils.chat_template_utils) has, which
sets a template no limits.
"""

import contextlib
import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.runtime import Macro

from engine.text.chat import TemplateError, TemplateLimitError
from engine.text.sandbox import LimitExceeded, Refused, Sandbox, TimeExceeded
from schemas.errors import UserError, did_you_mean

# So many dialogues may take too long; then the template is given up.
_MOST_TIMES_EXCEEDED = 3


class _Generation(jinja2.ext.Extension):
    """`{% generation %} … {% endgeneration %}`, which marks what the assistant says: the text within."""

    tags = {"generation"}  # noqa: RUF012 (as its class declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_within"), [], [], body).set_lineno(line)

    def _within(self, caller: Macro) -> str:
        return caller()


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON in which letters and HTML stay as they are, which Jinja's own escapes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@functools.cache
def chat_environment() -> Sandbox:
    """The one environment of all chat templates."""
    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.add_filter("tojson", _tojson)
    environment.globals["raise_exception"] = _raise_exception
    return environment


class ChatTemplate:
    """A template that is ready to be filled."""

    def __init__(self, text: str):
        """Raises jinja2.TemplateSyntaxError if it is no template, TemplateLimitError if to see that is beyond
        the limits."""
        self._environment = chat_environment()
        try:
            self._compiled = self._environment.compiled(text)
        except LimitExceeded as error:
            raise TemplateLimitError(f"the chat template is stopped: {error}") from None
        self._times_exceeded = 0

    def render(self, values: Mapping[str, Any]) -> str:
        """What the template makes of messages, tools and its other variables.

        Raises TemplateError if it refuses them; that is a TemplateLimitError where it takes too long or makes
        too much. Raises UserError where several dialogues took too long, since each costs the whole time."""
        try:
            text, _ = self._environment.rendered(self._compiled, values)
        except LimitExceeded as error:
            self._times_exceeded += isinstance(error, TimeExceeded)
            if self._times_exceeded >= _MOST_TIMES_EXCEEDED:
                raise UserError(
                    f"the chat template cannot be used: for each of {self._times_exceeded} dialogues {error} "
                    "to render one; give another by model.chat_template"
                ) from None
            raise TemplateLimitError(f"the chat template is stopped: {error}") from None
        except (Refused, jinja2.UndefinedError) as error:
            what = str(error).strip() or type(error).__name__
            raise TemplateError(f"the chat template refuses the messages: {what}") from None
        return text


@contextlib.contextmanager
def unusable_is_an_error(path: Path, section: str) -> Iterator[None]:
    """Raise UserError where a model's template cannot work at all, with the key that names another one."""
    try:
        yield
    except jinja2.TemplateSyntaxError as error:
        raise UserError(
            f"the chat template of {path} is no template: {error} (line {error.lineno}); "
            f"give another by {section}.chat_template"
        ) from None
    except TemplateLimitError as error:
        raise UserError(
            f"the chat template of {path} cannot be used, not even for one short turn: {error}; "
            f"give another by {section}.chat_template"
        ) from None


def check_arguments(arguments: Mapping[str, Any], template: str, section: str) -> None:
    """Raise UserError for an argument that the template does not ask for, or that is a word for a truth."""
    words = set(re.findall(r"[A-Za-z_]\w*", template))
    for name, value in arguments.items():
        key = f"[{section}.template_arguments] {name}"
        if name in ("date_string", "strftime_now"):
            raise UserError(f"{key}: set model.date, the day that the template is told")
        if name not in words:
            near = [word for word in words if "_" in word]
            raise UserError(f"{key}: the chat template does not ask for it; {did_you_mean(name, near)}")
        if isinstance(value, str) and value.lower() in ("true", "false"):
            raise UserError(f"{key} = {value!r} is a text: write {value.lower()} without quotes")
