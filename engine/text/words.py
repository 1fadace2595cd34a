"""Whether a rendering holds what it was made of: a template that drops words is found here.

White space does not count, and a text may stand as it is or as JSON writes it, since templates write tool
results and arguments as JSON.
"""

import json
import re
from collections.abc import Iterator, Mapping

from engine.text.chat import Chat, TemplateError, Turn

# What ends an assistant's thoughts: </think>, [/THINK] …
_THOUGHT_END = re.compile(r"(?i)<\|?/think\w*\|?>|\[/think\w*\]")
# The turns that stand in their order; a system text may stand anywhere.
_IN_ORDER = ("user", "assistant", "tool")
EXCERPT = 60  # characters that a message shows


def check_prompt(chat: Chat, rendered: str) -> None:
    """Raise TemplateError if the rendering of a prompt lacks words of it.

    Of an earlier assistant's turn its thoughts may be missing: templates drop them on purpose."""
    squeezed = squeeze(rendered)
    reached = 0
    for message in chat.messages:
        role = message["role"]
        words = message["content"]
        if role == "assistant":
            words = _THOUGHT_END.split(words)[-1]
        begin = reached if role in _IN_ORDER else 0
        end = _end_of_words(words, squeezed, begin)
        if end is None:
            raise TemplateError(f"the chat template drops the {role}'s words {excerpt(words)}", "prompt_lost")
        end = max(end, _end_of_keys(message, squeezed, begin))
        if role in _IN_ORDER:
            reached = end
    for tool in chat.tools:
        name = tool.get("function", tool)["name"]
        if _end_of_words(name, squeezed, 0) is None:
            raise TemplateError(f"the chat template drops the tool {excerpt(name)}", "prompt_lost")


def check_response(prompt: str, text: str, turn: Turn) -> None:
    """Raise TemplateError if `text`, the rendering of a response behind its prompt, lacks a part of it."""
    if not _holds(prompt, text, turn["content"]):
        raise TemplateError(
            f"the chat template drops a part of the response {excerpt(turn['content'])}: it renders "
            f"{excerpt(text)}",
            "response_lost",
        )
    thoughts = turn.get("reasoning_content", "")
    if not _holds(prompt, text, thoughts):
        raise TemplateError(
            f"the chat template drops the response's reasoning {excerpt(thoughts)}: it renders "
            f"{excerpt(text)}; leave it out by prompts.ignore, or take a template that reads it "
            "(model.chat_template)",
            "response_lost",
        )
    squeezed = squeeze(text)
    for what, words in _words_of_keys(turn):
        if _end_of_words(words, squeezed, 0) is None:
            raise TemplateError(
                f"the chat template drops {what} {excerpt(words)} of the response: it renders "
                f"{excerpt(text)}",
                "response_lost",
            )


def squeeze(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def excerpt(text: str) -> str:
    """The beginning of a text, for a message."""
    if len(text) <= EXCERPT:
        return repr(text)
    return repr(text[:EXCERPT]) + "…"


def _end_of_keys(message: Turn, squeezed: str, begin: int) -> int:
    """Where the calls of a turn end in a rendering. Raises TemplateError if a part of them is not there."""
    end = begin
    for what, words in _words_of_keys(message):
        found = _end_of_words(words, squeezed, begin)
        if found is None:
            raise TemplateError(
                f"the chat template drops {what} {excerpt(words)} of the {message['role']}'s turn",
                "prompt_lost",
            )
        end = max(end, found)
    return end


def _words_of_keys(message: Turn) -> Iterator[tuple[str, str]]:
    """What must be rendered of a turn beside its content, each with what it is.

    A tool's result may be told by its place alone, without the tool's name."""
    if "name" in message and message["role"] != "tool":
        yield "the name", message["name"]
    for call in message.get("tool_calls", ()):
        function = call["function"]
        yield "the tool call", function["name"]
        for words in _words_in(function["arguments"]):
            yield "the argument", words


def _words_in(value: object) -> Iterator[str]:
    """The words of a call's arguments; true, false and null are written in many ways."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield name
            yield from _words_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words_in(inner)
    elif value is not None and not isinstance(value, bool):
        yield json.dumps(value)


def _end_of_words(words: str, squeezed: str, begin: int) -> int | None:
    """Where words end in a rendering without white space, looked for from `begin` on; None if nowhere."""
    for spell in (str, _in_json, _in_ascii, _in_python):
        spelled = squeeze(spell(words))
        place = squeezed.find(spelled, begin)
        if place >= 0:
            return place + len(spelled)
    return None


def _in_json(words: str) -> str:
    """As templates write tool results and arguments."""
    return json.dumps(words, ensure_ascii=False)[1:-1]


def _in_ascii(words: str) -> str:
    return json.dumps(words)[1:-1]


def _in_python(words: str) -> str:
    """As a template writes a text within an object that it makes no JSON of."""
    return repr(words)[1:-1]


def _holds(prompt: str, text: str, response: str) -> bool:
    """True if `text` holds the response, but for white space and for what the prompt has already begun."""
    squeezed = squeeze(text)
    wanted = squeeze(response)
    if wanted in squeezed:
        return True
    prompt_end = squeeze(prompt[-EXCERPT:])
    for begun in range(min(len(wanted), len(prompt_end)), 0, -1):
        if prompt_end.endswith(wanted[:begun]) and squeezed.startswith(wanted[begun:]):
            return True
    return False
