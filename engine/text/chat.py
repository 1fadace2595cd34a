"""What a chat template is given: messages, which may hold tool calls and thoughts, and the tools.

A message of the least kind is {role, content}. Beside these it may have

    reasoning_content    what the assistant thought before it spoke
    tool_calls           [{id, type, function: {name, arguments}}], the arguments as an object
    tool_call_id, name   of a tool's result: which call it answers, and whose it is
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Turn = dict[str, Any]
Messages = Sequence[Turn]
# The keys of a message that are neither role nor content, in the order in which it has them.
CHAT_KEYS = ("reasoning_content", "tool_calls", "tool_call_id", "name")


class TemplateError(ValueError):
    """The chat template cannot render these messages as they are. `reason`: the code of a reject."""

    def __init__(self, sentence: str, reason: str = "template"):
        super().__init__(sentence)
        self.reason = reason


class TemplateLimitError(TemplateError):
    """The chat template takes too long for these messages, or makes too much of them."""


@dataclass(frozen=True)
class Chat:
    """A prompt: its messages, and the tools that the model may call, as JSON schemas."""

    messages: Messages
    tools: Sequence[dict[str, Any]] = ()

    def answered(self, turn: Turn) -> "Chat":
        """The dialogue with one turn more."""
        return Chat([*self.messages, turn], self.tools)

    def to_json(self) -> str:
        """{messages, tools} as JSON; no key `tools` where there are none."""
        said: dict[str, Any] = {"messages": list(self.messages)}
        if self.tools:
            said["tools"] = list(self.tools)
        return as_json(said)


# A prompt may be given as bare messages, a response as bare text.
Prompt = Messages | Chat
Response = str | Turn


def chat_of(prompt: Prompt) -> Chat:
    """A prompt with its tools, if any."""
    return prompt if isinstance(prompt, Chat) else Chat(prompt)


def turn_of(response: Response) -> Turn:
    """A response as the assistant's turn."""
    return {"role": "assistant", "content": response} if isinstance(response, str) else response


def stored_chat(messages: Messages, chat: str | None) -> Prompt:
    """A prompt from its columns `messages` and `chat` (schemas/tables.py)."""
    if chat is None:
        return messages
    said = json.loads(chat)
    return Chat(said["messages"], said.get("tools", ()))


def stored_response(text: str, turn: str | None) -> Response:
    """A response from its columns `text` and `turn` (schemas/tables.py)."""
    if turn is None:
        return text
    stored: Turn = json.loads(turn)
    return stored


def is_plain(turn: Turn) -> bool:
    """Whether a turn is nothing but role and content."""
    return not any(key in turn for key in CHAT_KEYS)


def as_text(turn: Turn) -> str:
    """A turn as one text, for people, judges and comparisons: thoughts, content, a line for each call."""
    parts: list[str] = []
    if turn.get("reasoning_content"):
        parts.append(f"<think>{turn['reasoning_content']}</think>")
    if turn["content"]:
        parts.append(turn["content"])
    for call in turn.get("tool_calls", ()):
        function = call["function"]
        parts.append(as_json({"name": function["name"], "arguments": function["arguments"]}))
    return "\n".join(parts)


def as_json(value: object) -> str:
    """A value as JSON, letters as they are."""
    return json.dumps(value, ensure_ascii=False)


def texts_in(value: object) -> Iterator[str]:
    """Every string in a JSON value, the names of its objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every string in it changed, the names of its objects included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(name): mapped(inner, change) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mapped(inner, change) for inner in value]
    return value
