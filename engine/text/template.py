"""A chat template: messages to text, with what it says of its own borders.

What is trained must be what the template renders for the whole dialogue. So a response's text is what the
template puts after the generation prompt (its trimming, its thinking block, its end of turn), and a prompt or
a response that the template changes into something else is refused, never guessed.

    generation prompt    what the template adds where the assistant is to speak
    end of turn          what it puts after the assistant's text
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import jinja2

from schemas.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[dict[str, str]]
# Stands for the assistant's text where the template is asked what it puts around it.
_MARK = "\ue002response\ue002"
# What ends an assistant's thoughts: </think>, [/THINK] …
_THOUGHT_END = re.compile(r"(?i)<\|?/think\w*\|?>|\[/think\w*\]")
_EXCERPT = 60  # characters that a message shows


class TemplateError(ValueError):
    """The chat template cannot render these messages as they are. `reason`: the code of a reject."""

    def __init__(self, sentence: str, reason: str = "template"):
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True)
class Borders:
    """What a template puts around the assistant's text.

    `header`: what stands before it and the generation prompt lacks; empty for most templates.
    `end`: what it puts after it. None where the template refused to be asked."""

    header: str = ""
    end: str | None = None


class Template:
    """Renders messages. `wants_parts`: contents are given as [{type: text, text}], not as strings."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: str,
        today: date,
        arguments: Mapping[str, Any],
        adds_bos: bool,
    ):
        """`today`: the day that a template which asks for it is told. `arguments`: variables of the
        template's own. `adds_bos`: whether the tokenizer itself begins a text with BOS.

        Raises jinja2.TemplateSyntaxError if it is no template, UserError for an argument that it does not
        take."""
        self._tokenizer = tokenizer
        tokenizer.chat_template = template
        self._thinking_hint = ""
        if "enable_thinking" in template:
            self._thinking_hint = "[model.template_arguments] enable_thinking = false, or "
        _check_arguments(arguments, template)
        self._variables: dict[str, Any] = dict(arguments)
        if tokenizer.bos_token is not None and not adds_bos:
            self._variables["unwanted_bos"] = True
        if "strftime_now" in template:
            self._variables["strftime_now"] = today.strftime
        if "date_string" in template:
            self._variables["date_string"] = today.strftime("%d %b %Y")
        self.wants_parts = False
        self.wants_parts = self._needs_parts()
        self.borders = self._look_at_borders()

    def render(self, messages: Messages, add_generation_prompt: bool) -> str:
        """The messages as the template renders them. Raises TemplateError if it refuses them."""
        try:
            return self._apply(messages, add_generation_prompt)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            what = str(error).strip() or type(error).__name__
            raise TemplateError(f"the chat template refuses the messages: {what}") from None

    def prompt(self, messages: Messages) -> str:
        """A prompt up to where the assistant's turn begins.

        Raises TemplateError if the template refuses the messages or drops a part of them."""
        rendered = self.render(messages, add_generation_prompt=True) + self.borders.header
        _check_words(messages, rendered)
        return rendered

    def dialogue(self, messages: Messages) -> str:
        """A whole dialogue, to its very end.

        Raises TemplateError if the template refuses the messages or drops a part of them."""
        rendered = self.render(messages, add_generation_prompt=False)
        _check_words(messages, rendered)
        return rendered

    def opening(self, messages: Messages) -> str:
        """A prompt up to where the assistant's text begins, after whatever stands before a text in its turn.

        Raises TemplateError as `prompt` does."""
        rendered = self.render([*messages, _assistant(_MARK)], add_generation_prompt=False)
        before, mark, _ = rendered.partition(_MARK)
        if not mark:
            raise TemplateError("the chat template does not render the assistant's text", "response_lost")
        _check_words(messages, before)
        return before

    def response(self, messages: Messages, prompt: str, response: str) -> str:
        """What the template puts after `prompt` where the assistant says `response`, without the end of turn.

        `prompt`: as the method `prompt` renders the messages. Raises TemplateError if the dialogue is not
        rendered as the prompt and then the response."""
        dialogue = self.render([*messages, _assistant(response)], add_generation_prompt=False)
        if not dialogue.startswith(prompt):
            raise _border_error(prompt, dialogue, self._thinking_hint)
        turn = dialogue[len(prompt) :]
        end = self.borders.end or ""
        if not turn.endswith(end):
            raise TemplateError(
                f"the chat template ends this response with {turn[-_EXCERPT:]!r}, and others with {end!r}",
                "template_border",
            )
        text = turn.removesuffix(end)
        if not _holds_response(prompt, text, response):
            raise TemplateError(
                f"the chat template drops a part of the response {_excerpt(response)}: it renders "
                f"{_excerpt(text)}",
                "response_lost",
            )
        return text

    def _apply(self, messages: Messages, add_generation_prompt: bool) -> str:
        given: list[dict[str, Any]] = []
        for message in messages:
            content: Any = message["content"]
            if self.wants_parts:
                content = [{"type": "text", "text": content}]
            given.append({**message, "content": content})
        rendered = self._tokenizer.apply_chat_template(
            given,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **self._variables,
        )
        assert isinstance(rendered, str)
        return rendered

    def _needs_parts(self) -> bool:
        """True if a user's words are rendered only where they are given as parts."""
        asked = [{"role": "user", "content": _MARK}]
        try:
            if _MARK in self._apply(asked, add_generation_prompt=True):
                return False
        except jinja2.TemplateSyntaxError:
            raise
        except (jinja2.TemplateError, TypeError, ValueError, LookupError):
            pass  # it may refuse this one prompt and take others
        self.wants_parts = True
        try:
            return _MARK in self.render(asked, add_generation_prompt=True)
        except TemplateError:
            return False

    def _look_at_borders(self) -> Borders:
        """Ask the template with a short dialogue; with a system message where it wants one."""
        user = {"role": "user", "content": "a"}
        for asked in ([user], [{"role": "system", "content": "b"}, user]):
            try:
                return self._borders_of(asked)
            except TemplateError:
                continue
        return Borders()

    def _borders_of(self, asked: Messages) -> Borders:
        prompt = self.render(asked, add_generation_prompt=True)
        dialogue = self.render([*asked, _assistant(_MARK)], add_generation_prompt=False)
        before, mark, end = dialogue.partition(_MARK)
        if not mark:
            return Borders()
        header = ""
        ignores_generation_prompt = prompt == self.render(asked, add_generation_prompt=False)
        if ignores_generation_prompt and before.startswith(prompt):
            header = before[len(prompt) :]
            # A mere space before the text is the text's: it belongs into its first token.
            if not header.strip():
                header = ""
        return Borders(header, end)


def _check_arguments(arguments: Mapping[str, Any], template: str) -> None:
    """Raise UserError for an argument that the template does not ask for, or that is a word for a truth."""
    words = set(re.findall(r"[A-Za-z_]\w*", template))
    for name, value in arguments.items():
        key = f"[model.template_arguments] {name}"
        if name in ("date_string", "strftime_now"):
            raise UserError(f"{key}: set model.date, the day that the template is told")
        if name not in words:
            near = [word for word in words if "_" in word]
            raise UserError(f"{key}: the chat template does not ask for it; {did_you_mean(name, near)}")
        if isinstance(value, str) and value.lower() in ("true", "false"):
            raise UserError(f"{key} = {value!r} is a text: write {value.lower()} without quotes")


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _check_words(messages: Messages, rendered: str) -> None:
    """Raise TemplateError if the rendering lacks words of a message; white space does not count.

    The turns of user and assistant stand in their order; a system text may stand anywhere. Of an earlier
    assistant's turn its thoughts may be missing: templates drop them on purpose."""
    squeezed = _squeeze(rendered)
    reached = 0
    for message in messages:
        role = message["role"]
        words = message["content"]
        if role == "assistant":
            words = _THOUGHT_END.split(words)[-1]
        begin = reached if role in ("user", "assistant") else 0
        end = _end_of_words(words, squeezed, begin)
        if end is None:
            raise TemplateError(
                f"the chat template drops the {role}'s words {_excerpt(words)}", "prompt_lost"
            )
        if role in ("user", "assistant"):
            reached = end


def _end_of_words(words: str, squeezed: str, begin: int) -> int | None:
    """Where words end in a rendering without white space, looked for from `begin` on; None if nowhere."""
    as_json = json.dumps(words, ensure_ascii=False)[1:-1]  # some templates write tool results as JSON
    for spelled in (_squeeze(words), _squeeze(as_json)):
        place = squeezed.find(spelled, begin)
        if place >= 0:
            return place + len(spelled)
    return None


def _holds_response(prompt: str, text: str, response: str) -> bool:
    """True if `text` holds the response, but for white space and for what the prompt has already begun."""
    squeezed = _squeeze(text)
    wanted = _squeeze(response)
    if wanted in squeezed:
        return True
    prompt_end = _squeeze(prompt[-_EXCERPT:])
    for begun in range(min(len(wanted), len(prompt_end)), 0, -1):
        if prompt_end.endswith(wanted[:begun]) and squeezed.startswith(wanted[begun:]):
            return True
    return False


def _border_error(prompt: str, dialogue: str, hint: str) -> TemplateError:
    """Why a dialogue is not its prompt and then the response: where the two part."""
    same = 0
    for of_prompt, of_dialogue in zip(prompt, dialogue, strict=False):
        if of_prompt != of_dialogue:
            break
        same += 1
    return TemplateError(
        "the chat template does not render prompt and response as the prompt and then the response: "
        f"where the prompt goes on with {_excerpt(prompt[same:])}, the dialogue has "
        f"{_excerpt(dialogue[same:])}; {hint}model.chat_template takes another template",
        "template_border",
    )


def _squeeze(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def _excerpt(text: str) -> str:
    if len(text) <= _EXCERPT:
        return repr(text)
    return repr(text[:_EXCERPT]) + "…"
