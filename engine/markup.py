"""Texts that are not what they are read as: a template's markup, turns written as text, a repeated prompt.

The run writes the markup of a chat template itself. Where a text brings its own, a whole dialogue would be
trained on as one turn. Only a text's very beginning and end are looked at: within it, markup is prose.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from engine.raw import Row
from engine.wording import turns_as_text

Problem = tuple[str, str]
_ANY_CASE = re.IGNORECASE
# Special tokens of known templates.
_TOKEN = (
    r"<\|(?:im_start|im_end|start_header_id|end_header_id|begin_of_text|eot_id|end_of_text|endoftext|"
    r"user|assistant|system|end)\|>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>|<s>\s*\[INST\]"
)
_ENDING_TOKEN = rf"{_TOKEN}|</s>|<eos>"
_BEGINS_WITH_TOKEN = re.compile(rf"\s*({_TOKEN})")
_ENDS_WITH_TOKEN = re.compile(rf"({_ENDING_TOKEN})\s*\Z")
# Speakers: "User:" begins prose as well, so that it counts only where the assistant's turn is marked too; an
# answer that begins with "Human:" may be what a person is quoted with.
_SPEAKERS = (
    r"assistant:|(?:human|user):(?=.*\bassistant:)|### (?:instruction|response)\b|"
    r"below is an instruction that describes(?=.*### )"
)
_ANSWER_BEGINS = re.compile(rf"\s*({_SPEAKERS})", _ANY_CASE | re.DOTALL)
_PROMPT_BEGINS = re.compile(rf"\s*(human:|{_SPEAKERS})", _ANY_CASE | re.DOTALL)
_ENDS_WITH_SPEAKER = re.compile(
    r"(?:\A|\n)[ \t]*((?:human|user|assistant):|### (?:response|instruction|input):?)\s*\Z", _ANY_CASE
)
_TURNS_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*(['"])(?:role|content|from|value)\1\s*:""")
# Its two keys, in either order, in the same quotes.
_ROLE_AND_CONTENT = r"role\1\s*:.*\1content|content\1\s*:.*\1role"
_FROM_AND_VALUE = r"from\1\s*:.*\1value|value\1\s*:.*\1from"
_ONE_TURN_AS_TEXT = re.compile(
    rf"""\s*\{{\s*(['"])(?:{_ROLE_AND_CONTENT}|{_FROM_AND_VALUE})\1\s*:.*\}}\s*\Z""", re.DOTALL
)
_LETTERS_OF_AN_END = 100
# So short a prompt is repeated by chance: "Good morning".
_FEW_WORDS = 3
_FEW_BYTES = 18


def texts_problem(row: Row, messages: Sequence[dict[str, str]], texts: Sequence[str]) -> Problem | None:
    """Why a prompt's messages or the texts of its responses are not what they are read as."""
    # A tool's result is what a program said: JSON, a page, a log.
    said = [message["content"] for message in messages if message["role"] != "tool"]
    if any(map(_are_turns, said)) or any(map(_are_turns, texts)):
        return "turns_as_text", _turns_sentence(row)
    last = messages[-1]
    found = None if last["role"] == "tool" else markup_of_prompt(last["content"])
    if found:
        return "templated", _markup_sentence("the prompt", *found)
    for text in texts:
        found = markup_of_answer(text)
        if found:
            return "templated", _markup_sentence("an answer", *found)
    return None


def repeats_prompt(messages: Sequence[dict[str, str]], texts: Sequence[str]) -> Problem | None:
    """Why responses that all begin with the prompt cannot be used."""
    prompt = messages[-1]["content"].strip()
    is_short = len(prompt.split()) < _FEW_WORDS and len(prompt.encode()) < _FEW_BYTES
    if len(texts) < 2 or is_short:
        return None
    if all(text.lstrip().startswith(prompt) for text in texts):
        return "prompt_in_answers", "all answers (chosen and rejected) begin with the prompt: cut it off"
    return None


def markup_of_prompt(text: str) -> tuple[str, str] | None:
    """Where the last message of a prompt has markup, "begins" or "ends", and the markup; None without."""
    return _markup(text, _PROMPT_BEGINS)


def markup_of_answer(text: str) -> tuple[str, str] | None:
    """Where a response has markup, "begins" or "ends", and the markup; None without."""
    return _markup(text, _ANSWER_BEGINS)


def _markup(text: str, speakers: re.Pattern[str]) -> tuple[str, str] | None:
    """Where a text has markup, "begins" or "ends", and the markup; None for a text without."""
    beginning = _BEGINS_WITH_TOKEN.match(text) or speakers.match(text)
    if beginning:
        return "begins", beginning[1]
    end = text.rstrip()[-_LETTERS_OF_AN_END:]
    ending = _ENDS_WITH_TOKEN.search(end) or _ENDS_WITH_SPEAKER.search(end)
    return ("ends", ending[1]) if ending else None


def _markup_sentence(name: str, where: str, markup: str) -> str:
    shown = " ".join(markup.split())
    return (
        f'{name} {where} with "{shown}": a dialogue as text would be trained on as one turn, and the chat '
        "template writes its own markup; strip it, or write the turns as a list of {role, content} "
        "(the format hh reads whole Human/Assistant dialogues in chosen and rejected)"
    )


def _are_turns(text: str) -> bool:
    """Whether a text is turns as JSON or as Python writes them."""
    return bool(_TURNS_AS_TEXT.match(text) or _ONE_TURN_AS_TEXT.match(text))


def _turns_sentence(row: Row) -> str:
    """Which column of a row holds turns as text, and what makes them turns."""
    values: dict[str, Any] = json.loads(row.text)
    for name, value in values.items():
        if isinstance(value, str) and _are_turns(value):
            return f"{name} holds {turns_as_text(value)}"
    return "a text holds turns as JSON text; write them as a list of {role, content}"
