"""Plain rows of the format `hh`: two dialogues as texts, the same up to the assistant's last turn."""

import re
from collections.abc import Mapping
from typing import Any

from engine.plain.plain_row import PlainFormat, PlainRow, are_answers, is_prompt

_ANSWER = "\n\nAssistant:"
_ASKED = "\n\nHuman:"
_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_AROUND = " \t\r\n"  # what the SQL trims off


def read(values: Mapping[str, Any]) -> PlainRow | None:
    """The row, or None where it is not plain."""
    before, chosen = _parted(values.get("chosen"))
    before_rejected, rejected = _parted(values.get("rejected"))
    if before is None or before != before_rejected:
        return None
    beginning, *said = _TURN.split(before)
    if beginning or not said:
        return None
    turns: list[list[str]] = []
    for speaker, text in zip(said[::2], said[1::2], strict=True):
        content = text.strip(_AROUND)
        if not content:
            return None
        turns.append([_ROLES[speaker], content])
    if not is_prompt(turns) or not are_answers(turns[-1][1], chosen, rejected):
        return None
    return PlainRow(turns, [[chosen, 1.0], [rejected, 0.0]])


def _parted(dialogue: object) -> tuple[str | None, str]:
    """A dialogue up to the assistant's last turn, and that turn; None where it does not end in one."""
    if type(dialogue) is not str:
        return None, ""
    text = "\n\n" + dialogue.lstrip("\n")
    place = text.rfind(_ANSWER)
    answer = text[place + len(_ANSWER) :]
    if place <= 0 or _ASKED in answer:
        return None, ""
    return text[:place], answer.strip(_AROUND)


FORMAT = PlainFormat(
    sql_digest="5d96020efb3e",
    names=frozenset({"chosen", "rejected"}),
    read=read,
)
