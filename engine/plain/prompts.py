"""Plain rows of the format `prompts`: a prompt as text or turns, or messages."""

from collections.abc import Mapping
from typing import Any

from engine.plain.plain_row import PlainFormat, PlainRow, is_prompt, turns_of


def read(values: Mapping[str, Any]) -> PlainRow | None:
    """The row, or None where it is not plain."""
    prompt = values.get("prompt")
    if prompt is None:
        prompt = values.get("messages")
        turns = turns_of(prompt)
    elif "messages" in values:
        return None
    else:
        turns = [["user", prompt]] if type(prompt) is str else turns_of(prompt)
    if turns is None or not is_prompt(turns):
        return None
    return PlainRow(turns, [])


_ANSWERS = (
    "chosen rejected response1 response_1 completion completions response responses generations candidates "
    "all_generated_responses answer answers output outputs conversations"
)
FORMAT = PlainFormat(
    sql_digest="256a532f035e",
    names=frozenset({"prompt", "messages"}),
    read=read,
    not_beside=frozenset(_ANSWERS.split()),
)
