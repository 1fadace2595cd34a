"""Tools and calls in other tools' row shapes: every shape that can hold them gives the same dialogue."""

import functools
import json

import pytest

from engine.formats import Format, shipped
from engine.raw import Row
from engine.readings import Reading
from schemas.sections import Prompts

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]}
ASKED = [
    {"role": "user", "content": "How warm is it in Rome?"},
    CALL | {"content": None},
    {"role": "tool", "name": "weather", "content": "21"},
    {"role": "assistant", "content": "21 degrees."},
    {"role": "user", "content": "And in Oslo?"},
]
REFUSAL = {"role": "assistant", "content": "I cannot know."}
# Shape -> a row with the call as the better answer and the refusal as the worse one.
ROWS = {
    "preference": {"tools": TOOLS, "prompt": ASKED, "chosen": [CALL], "rejected": [REFUSAL]},
    "several_rejected": {
        "tools": TOOLS,
        "prompt": ASKED,
        "chosen": [CALL],
        "rejected": [[REFUSAL], [REFUSAL]],
    },
    "ms_swift": {"tools": TOOLS, "messages": [*ASKED, CALL], "rejected_response": REFUSAL["content"]},
    "openai": {
        "input": {"messages": ASKED, "tools": TOOLS, "parallel_tool_calls": True},
        "preferred_output": [CALL],
        "non_preferred_output": [REFUSAL],
    },
    "sharegpt": {"tools": TOOLS, "conversations": ASKED, "chosen": CALL, "rejected": REFUSAL},
}


@functools.cache
def readers() -> list[Format]:
    return [Format.of(path, Prompts()) for path in shipped()]


def read(name: str, row: dict) -> Reading:
    """The row as the one format that reads it, which must be the one named."""
    raw = [Row("rows.jsonl", 1, json.dumps(row))]
    found = {}
    for reader in readers():
        (reading,) = reader.read(raw)
        if reading.reason is None:
            found[reader.name] = reading
    assert list(found) == [name]
    return found[name]


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("tools_as_text", [False, True])
def test_every_shape_gives_the_same_dialogue(shape, tools_as_text):
    row = ROWS[shape]
    if tools_as_text and "tools" in row:
        row = row | {"tools": json.dumps(TOOLS)}
    reading = read(shape, row)
    plain = read("preference", ROWS["preference"])
    assert reading.chat == plain.chat and json.loads(reading.chat)["tools"] == TOOLS
    assert reading.messages == plain.messages
    turns = {json.dumps(response.get("turn")) for response in reading.responses}
    assert turns == {json.dumps(response.get("turn")) for response in plain.responses}


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        ("alpaca", {"instruction": "And in Oslo?", "input": "", "chosen": "12", "rejected": "13"}),
        ("query_response", {"query": "And in Oslo?", "response": "12", "rejected_response": "13"}),
        ("scored_lists", {"prompt": "And in Oslo?", "responses": ["12", "13"], "rewards": [1, 0]}),
        ("scored_objects", {"prompt": "And in Oslo?", "responses": [{"text": "12", "score": 1}]}),
        ("prompts", {"prompt": "And in Oslo?"}),
    ],
)
def test_shapes_of_texts_take_tools_too(shape, row):
    reading = read(shape, row | {"tools": json.dumps(TOOLS)})
    assert json.loads(reading.chat) == {"messages": [ASKED[-1]], "tools": TOOLS}
    assert read(shape, row).chat is None


@pytest.mark.parametrize("shape", ["preference", "ms_swift", "openai"])
def test_what_a_turn_says_beside_is_still_refused_by_name(shape):
    text = json.dumps(ROWS[shape]).replace('"tool_calls"', '"weight": 0, "tool_calls"')
    for reader in readers():
        if reader.name == shape:
            (reading,) = reader.read([Row("rows.jsonl", 1, text)])
    assert reading.reason in ("unread_column", "unread_key") and "weight" in reading.detail
