"""A chat template: messages to text, with what it says of its own borders.

What is trained must be what the template renders for the whole dialogue. So a response's text is what the
template puts after the generation prompt (its trimming, its thinking block, its end of turn), and a prompt or
a response that the template changes into something else is refused, never guessed.

    generation prompt    what the template adds where the assistant is to speak
    end of turn          what it puts after the assistant's text
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from engine.text.chat import (
    Chat,
    Messages,
    Prompt,
    TemplateError,
    TemplateLimitError,
    Turn,
    as_json,
    chat_of,
    texts_in,
)
from engine.text.chat_templates import ChatTemplate, check_arguments
from engine.text.words import EXCERPT, check_prompt, check_response, excerpt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Stands for the assistant's text where the template is asked what it puts around it.
_MARK = "\ue002response\ue002"
# The same in a call's arguments, where a template may write what is no ASCII by its number.
_ARGUMENT = "prefmill-argument"
# A template's own word for thoughts: message.thinking, message['reasoning'].
_THOUGHTS = re.compile(r"(?:\.|\[['\"])(reasoning_content|reasoning|thinking)\b")


@dataclass(frozen=True)
class Borders:
    """What a template puts around the assistant's text.

    `header`: what stands before it and the generation prompt lacks; empty for most templates.
    `end`: what it puts after it. None where the template refused to be asked."""

    header: str = ""
    end: str | None = None


class Template:
    """Renders dialogues. `wants_parts`: contents are given as [{type: text, text}], not as strings.

    `call_ends`: the tokens by which a turn that is a call may end, if not by the usual end of turn."""

    call_ends: Collection[str] = ()

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: str,
        today: date,
        arguments: Mapping[str, Any],
        adds_bos: bool,
        section: str = "model",
    ):
        """`today`: the day that a template which asks for it is told. `arguments`: variables of the
        template's own, which the recipe's `section` gives. `adds_bos`: whether the tokenizer itself begins a
        text with BOS.

        Raises jinja2.TemplateSyntaxError if it is no template, TemplateLimitError if a short dialogue is
        beyond its limits, UserError for an argument that it does not take."""
        self._tokenizer = tokenizer
        tokenizer.chat_template = template
        self._compiled = ChatTemplate(template)
        self._thinking_hint = ""
        if "enable_thinking" in template:
            self._thinking_hint = f"[{section}.template_arguments] enable_thinking = false, or "
        check_arguments(arguments, template, section)
        self._variables: dict[str, Any] = dict(arguments)
        if tokenizer.bos_token is not None and not adds_bos:
            self._variables["unwanted_bos"] = True
        if "strftime_now" in template:
            self._variables["strftime_now"] = today.strftime
        if "date_string" in template:
            self._variables["date_string"] = today.strftime("%d %b %Y")
        named = _THOUGHTS.findall(template)
        self._thoughts = "reasoning_content"
        if named and "reasoning_content" not in named:
            self._thoughts = named[0]
        self._arguments_are_text: bool | None = None  # looked at when the first call comes
        self.wants_parts = False
        self.wants_parts = self._needs_parts()
        self.borders = self._look_at_borders()

    def render(self, prompt: Prompt, add_generation_prompt: bool) -> str:
        """The dialogue as the template renders it. Raises TemplateError if it refuses it.

        That is a TemplateLimitError where it takes too long or makes too much; a UserError where several
        dialogues took too long."""
        chat = chat_of(prompt)
        given = {
            "messages": list(map(self._given, chat.messages)),
            "tools": list(chat.tools) or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        return self._compiled.render(given | self._tokenizer.special_tokens_map | self._variables)

    def prompt(self, prompt: Prompt) -> str:
        """A prompt up to where the assistant's turn begins.

        Raises TemplateError if the template refuses the messages or drops a part of them."""
        chat = chat_of(prompt)
        rendered = self.render(chat, add_generation_prompt=True)
        check_prompt(chat, rendered)
        # A tool's name stands in its calls too, whether or not the tools are told.
        if chat.tools and rendered == self._without_tools(chat):
            raise TemplateError("the chat template drops the tools", "prompt_lost")
        return rendered + self.borders.header

    def dialogue(self, chat: Chat, turn: Turn) -> str:
        """A whole dialogue, the prompt and the turn that answers it, to its very end.

        Raises TemplateError if the template refuses the messages or drops a part of them."""
        answered = chat.answered(turn)
        rendered = self.render(answered, add_generation_prompt=False)
        check_prompt(answered, rendered)
        check_response("", rendered, turn)
        return rendered

    def _without_tools(self, chat: Chat) -> str | None:
        """The same prompt without tools; None where the template refuses that."""
        try:
            return self.render(chat.messages, add_generation_prompt=True)
        except TemplateLimitError:
            raise
        except TemplateError:
            return None

    def opening(self, chat: Chat) -> str:
        """A prompt up to where the assistant's text begins, after whatever stands before a text in its turn.

        Raises TemplateError as `prompt` does."""
        mark = _MARK
        written = "\n".join(texts_in([*chat.messages, *chat.tools]))
        while mark in written:  # somebody typed it
            mark += _MARK
        rendered = self.render(chat.answered(_assistant(mark)), add_generation_prompt=False)
        before, found, _ = rendered.partition(mark)
        if not found:
            raise TemplateError("the chat template does not render the assistant's text", "response_lost")
        check_prompt(chat, before)
        return before

    def response(self, chat: Chat, prompt: str, turn: Turn) -> tuple[str, bool]:
        """What the template puts after `prompt` where `turn` answers it, and whether it has its own end.

        `prompt`: as the method `prompt` renders the chat. The usual end of turn is not in the text; a call
        may end in another way, which is. Raises TemplateError if the dialogue is not rendered as the prompt
        and then the response."""
        dialogue = self.render(chat.answered(turn), add_generation_prompt=False)
        if not dialogue.startswith(prompt):
            raise _border_error(prompt, dialogue, self._thinking_hint)
        rendered = dialogue[len(prompt) :]
        end = self.borders.end or ""
        text = rendered.removesuffix(end)
        has_own_end = False
        if not rendered.endswith(end):
            text = rendered.rstrip()
            has_own_end = "tool_calls" in turn and text.endswith(tuple(self.call_ends))
            if not has_own_end:
                raise TemplateError(
                    f"the chat template ends this response with {rendered[-EXCERPT:]!r}, and others with "
                    f"{end!r}",
                    "template_border",
                )
        check_response(prompt, text, turn)
        return text, has_own_end

    def _given(self, message: Turn) -> Turn:
        """A message in the form that the template reads."""
        content: Any = message["content"]
        if self.wants_parts:
            content = [{"type": "text", "text": content}]
        given = {**message, "content": content}
        if "reasoning_content" in given:
            given[self._thoughts] = given.pop("reasoning_content")
        if "tool_calls" in given:
            if self._arguments_are_text is None:
                self._arguments_are_text = self._wants_arguments_as_text()
            if self._arguments_are_text:
                given["tool_calls"] = list(map(_with_text_arguments, given["tool_calls"]))
        return given

    def _wants_arguments_as_text(self) -> bool:
        """True if a call's arguments must be JSON text: given an object, the template fails or writes it as
        Python does."""
        arguments = {"a": _ARGUMENT}
        self._arguments_are_text = False
        as_object = self._rendered_call(arguments)
        if _ARGUMENT in as_object and str(arguments) not in as_object:
            return False
        self._arguments_are_text = True
        return as_json(arguments) in self._rendered_call(arguments)

    def _rendered_call(self, arguments: dict[str, str]) -> str:
        """A short dialogue in which a tool is called with these arguments; empty if the template refuses."""
        function = {"name": "call", "arguments": arguments}
        call = {"id": "abcdefghi", "type": "function", "function": function}
        messages: Messages = [{"role": "user", "content": "a"}, _assistant("") | {"tool_calls": [call]}]
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        tool = {"name": "call", "description": "b", "parameters": schema}
        tools = [{"type": "function", "function": tool}]
        try:
            return self.render(Chat(messages, tools), add_generation_prompt=False)
        except TemplateLimitError:
            raise
        except TemplateError:
            return ""

    def _needs_parts(self) -> bool:
        """True if a user's words are rendered only where they are given as parts."""
        asked = [{"role": "user", "content": _MARK}]
        for self.wants_parts in (False, True):
            try:
                if _MARK in self.render(Chat(asked), add_generation_prompt=True):
                    return self.wants_parts
            except TemplateLimitError:
                raise
            except TemplateError:
                continue  # it may refuse this one prompt and take others
        return False

    def _look_at_borders(self) -> Borders:
        """Ask the template with a short dialogue; with a system message where it wants one."""
        user = {"role": "user", "content": "a"}
        for asked in ([user], [{"role": "system", "content": "b"}, user]):
            try:
                return self._borders_of(asked)
            except TemplateLimitError:
                raise
            except TemplateError:
                continue
        return Borders()

    def _borders_of(self, asked: Messages) -> Borders:
        chat = Chat(asked)
        prompt = self.render(chat, add_generation_prompt=True)
        dialogue = self.render(chat.answered(_assistant(_MARK)), add_generation_prompt=False)
        before, mark, end = dialogue.partition(_MARK)
        if not mark:
            return Borders()
        header = ""
        ignores_generation_prompt = prompt == self.render(chat, add_generation_prompt=False)
        if ignores_generation_prompt and before.startswith(prompt):
            header = before[len(prompt) :]
            # A mere space before the text is the text's: it belongs into its first token.
            if not header.strip():
                header = ""
        return Borders(header, end)


def _assistant(text: str) -> Turn:
    return {"role": "assistant", "content": text}


def _with_text_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """A call whose arguments are JSON text."""
    function = call["function"]
    return {**call, "function": {**function, "arguments": as_json(function["arguments"])}}


def _border_error(prompt: str, dialogue: str, hint: str) -> TemplateError:
    """Why a dialogue is not its prompt and then the response: where the two part."""
    same = 0
    for of_prompt, of_dialogue in zip(prompt, dialogue, strict=False):
        if of_prompt != of_dialogue:
            break
        same += 1
    return TemplateError(
        "the chat template does not render prompt and response as the prompt and then the response: "
        f"where the prompt goes on with {excerpt(prompt[same:])}, the dialogue has "
        f"{excerpt(dialogue[same:])}; {hint}model.chat_template takes another template",
        "template_border",
    )
