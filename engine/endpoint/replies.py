"""A server's reply to a chat completion, checked: what makes no sense is an error, never half a reply."""

import math
from dataclasses import dataclass
from typing import Any

import orjson

# Probabilities of one position may exceed 1 together by rounding.
_ROUNDING = 1e-3


class GarbageError(ValueError):
    """A reply that makes no sense; it says why."""


@dataclass(frozen=True)
class Position:
    """One token of an answer: its text, and the likeliest tokens there as (text, probability)."""

    text: str
    likely: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Reply:
    """What a server answered.

    `thought`: what it says that the model thought, apart from `text`; `positions`: the text's tokens, None
    where the server gave no log-probs; `prompt_tokens`: of the question, None where it does not say."""

    text: str
    thought: str
    finish_reason: str
    positions: tuple[Position, ...] | None
    prompt_tokens: int | None
    tokens: int = 0  # of question and answer, where it says


def read_reply(content: bytes, key: str) -> Reply:
    """A reply from its bytes. Raises GarbageError. `key` is blotted out, should a server send it back."""
    if key:
        content = content.replace(key.encode(), b"***")
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise GarbageError(f"it is no JSON ({error.msg}): {_shortened(content)}") from None
    choice = _first_choice(body)
    if choice is None:
        raise GarbageError(f"it has no choice with a message: {_shortened(content)}")
    texts = _texts(choice["message"])
    if texts is None:
        raise GarbageError(f"its message has no text: {_shortened(content)}")
    text, thought = texts
    return Reply(
        text=text,
        thought=thought,
        finish_reason=str(choice.get("finish_reason") or "stop"),
        positions=_positions(choice.get("logprobs")),
        prompt_tokens=_usage(body, "prompt_tokens"),
        tokens=_usage(body, "total_tokens") or 0,
    )


def check_says_something(reply: Reply) -> None:
    """Raise GarbageError where a reply has neither text nor tokens."""
    if not (reply.text or reply.thought or reply.positions):
        raise GarbageError("it has neither text nor tokens")


def _first_choice(body: Any) -> dict[str, Any] | None:
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    return choices[0] if isinstance(choices[0].get("message"), dict) else None


def _texts(message: dict[str, Any]) -> tuple[str, str] | None:
    """What a message says and what was thought before it; None where it has neither."""
    text = message.get("content")
    # vLLM's name, and the one of DeepSeek and SGLang.
    thought = message.get("reasoning") or message.get("reasoning_content") or ""
    if text is None and thought:
        text = ""
    if not isinstance(text, str) or not isinstance(thought, str):
        return None
    return text, thought


def _usage(body: dict[str, Any], name: str) -> int | None:
    """What a server counts under a name (prompt_tokens, total_tokens); None where it does not say."""
    usage = body.get("usage")
    tokens = usage.get(name) if isinstance(usage, dict) else None
    return tokens if type(tokens) is int else None


def _positions(logprobs: Any) -> tuple[Position, ...] | None:
    """The tokens of an answer; None where there are no log-probs of other tokens than its own."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if content is None:
        return None
    if not isinstance(content, list):
        raise GarbageError("its logprobs are no list")
    positions: list[Position] = []
    for item in content:
        position = _position(item)
        if position is None:
            return None
        positions.append(position)
    return tuple(positions)


def _position(item: Any) -> Position | None:
    text, _ = _token(item)
    others = item.get("top_logprobs")
    if not others:
        return None
    if not isinstance(others, list):
        raise GarbageError("its top_logprobs are no list")
    likely = tuple(_token(other) for other in others)
    total = sum(probability for _, probability in likely)
    if total > 1 + _ROUNDING:
        raise GarbageError(f"the probabilities of one position sum to {total:g}")
    return Position(text, likely)


def _token(item: Any) -> tuple[str, float]:
    """A token's text and probability."""
    text = item.get("token") if isinstance(item, dict) else None
    if not isinstance(text, str):
        raise GarbageError("a token in its logprobs has no text")
    logprob = item.get("logprob")
    if type(logprob) not in (int, float) or not math.isfinite(logprob) or logprob > _ROUNDING:
        raise GarbageError(f"the log-prob of the token {text!r} is {logprob!r}")
    return text, math.exp(logprob)


def _shortened(content: bytes) -> str:
    """The beginning of a reply, to be read in a message."""
    text = content[:200].decode("utf-8", errors="replace")
    return repr(text) if text else "it is empty"
