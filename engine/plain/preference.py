"""Plain rows of the format `preference`: prompt, chosen and rejected as texts or as lists of turns.

Whole dialogues in chosen and rejected are read where they begin with the prompt. All else is the SQL's:
a prompt that is to be guessed, calls of tools, a column system.
"""

from collections.abc import Mapping
from typing import Any

from engine.plain.plain_row import PlainFormat, PlainRow, are_answers, is_prompt, turns_of

_AROUND = " \t\r\n"  # what the SQL trims off


def read(values: Mapping[str, Any]) -> PlainRow | None:
    """The row, or None where it is not plain."""
    prompt = values.get("prompt")
    turns = [["user", prompt]] if type(prompt) is str else turns_of(prompt)
    if turns is None or not is_prompt(turns):
        return None
    chosen = values.get("chosen")
    rejected = values.get("rejected")
    if type(chosen) is not str or type(rejected) is not str:
        before, chosen = _side(chosen)
        before_rejected, rejected = _side(rejected)
        if chosen is None or rejected is None or before != before_rejected:
            return None
        if before and not _begins_with(before, turns):
            return None
    if not are_answers(turns[-1][1], chosen, rejected):
        return None
    return PlainRow(turns, [[chosen, 1.0], [rejected, 0.0]])


def _side(value: object) -> tuple[list[list[str]], str | None]:
    """The turns before an answer, and the answer; None where the value is not a dialogue that ends in one."""
    turns = turns_of(value)
    if turns is None or turns[-1][0] != "assistant":
        return [], None
    return turns[:-1], turns[-1][1]


def _begins_with(before: list[list[str]], prompt: list[list[str]]) -> bool:
    """Whether the turns before an answer are the prompt, with or without its system turn."""
    trimmed = _trimmed(prompt)
    spoken = [turn for turn in trimmed if turn[0] != "system"]
    return _trimmed(before) in (trimmed, spoken)


def _trimmed(turns: list[list[str]]) -> list[list[str]]:
    return [[role, content.strip(_AROUND)] for role, content in turns]


FORMAT = PlainFormat(
    sql_digest="1118094a7e38",
    names=frozenset({"prompt", "chosen", "rejected"}),
    read=read,
)
