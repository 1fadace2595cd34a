"""Calls and results in other tools' forms: each is the same dialogue as with tool_calls and the role tool."""

import functools
import json

import pytest

from engine.formats import Format, shipped
from engine.raw import Row
from engine.readings import Reading
from engine.wording import role_in_words
from schemas.errors import UserError
from schemas.sections import Prompts

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
PLAIN = {"role": "assistant", "content": "I cannot know."}


def function(city, as_text=False):
    arguments = {"city": city, "days": 2}
    return {"name": "weather", "arguments": json.dumps(arguments) if as_text else arguments}


def called(*cities, content=""):
    calls = [{"type": "function", "function": function(city)} for city in cities]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def said(role, content, **more):
    return {"role": role, "content": content, **more}


ASKED = [said("user", "Rome and Oslo?")]
PAST = [*ASKED, called("Rome", "Oslo"), said("tool", "21, 12"), said("assistant", "21, 12."), ASKED[0]]
# How the past's second and third turn may be written: in each the same two calls and their result.
PASTS = {
    "a turn for each call": [
        said("tool_call", json.dumps(function("Rome"))),
        said("tool_call", json.dumps(function("Oslo", as_text=True))),
        said("tool_response", "21, 12"),
    ],
    "a list of calls": [
        said("Function_Call", json.dumps([function("Rome", as_text=True), function("Oslo")])),
        said("observation", "21, 12"),
    ],
    "a value": [said("tool_call", [function("Rome"), function("Oslo")]), said("tool_response", "21, 12")],
}
CALL_ROLES = ["tool_call", "function_call"]


def as_sharegpt(turns):
    """Turns {from, value}; what a turn has beside stays."""
    spelled = []
    for turn in turns:
        beside = {key: value for key, value in turn.items() if key not in ("role", "content")}
        spelled.append({"from": turn["role"], "value": turn["content"], **beside})
    return spelled


def row_of(shape, past, chosen):
    """A row of a shape, with the past before the answer `chosen`, a turn, and a refusal as the worse one."""
    if shape == "preference":
        return {"prompt": past, "chosen": [chosen], "rejected": [PLAIN]}
    if shape == "several_rejected":
        return {"prompt": past, "chosen": [chosen], "rejected": [[PLAIN], [PLAIN]]}
    if shape == "ms_swift":
        return {"messages": [*past, chosen], "rejected_response": PLAIN["content"]}
    if shape == "openai":
        asked = {"messages": past}
        return {"input": asked, "preferred_output": [chosen], "non_preferred_output": [PLAIN]}
    (better, worse) = as_sharegpt([chosen, PLAIN])
    return {"conversations": as_sharegpt(past), "chosen": better, "rejected": worse}


SHAPES = ["preference", "several_rejected", "ms_swift", "openai", "sharegpt"]


@functools.cache
def reader(name) -> Format:
    return reader_with(name)


def reader_with(name, **settings) -> Format:
    (path,) = [path for path in shipped() if path.stem == name]
    return Format.of(path, Prompts(**settings))


def read(name, row, **settings) -> Reading:
    reads = reader_with(name, **settings) if settings else reader(name)
    (reading,) = reads.read([Row("rows.jsonl", 1, json.dumps(row))])
    return reading


def same(reading, plain):
    assert (reading.reason, reading.detail) == (None, None) and plain.reason is None
    assert (reading.chat, reading.messages) == (plain.chat, plain.messages)
    assert reading.responses == plain.responses
    assert reading.unread == plain.unread


@pytest.mark.parametrize("tools", [{}, {"tools": TOOLS}])
@pytest.mark.parametrize("past", PASTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_tool_turns_are_the_dialogue_with_tool_calls(shape, past, tools):
    if shape == "openai" and tools:
        tools = {}
    other = [ASKED[0], *PASTS[past], *PAST[3:]]
    plain = read(shape, row_of(shape, PAST, called("Bern")) | tools)
    answer = said("function_call", json.dumps(function("Bern")))
    same(read(shape, row_of(shape, other, answer) | tools), plain)
    assert '"tool_calls"' in plain.chat and '"tool_calls"' in plain.responses[0]["turn"]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_older_function_call_is_one_call(shape):
    old = said("assistant", None, function_call=function("Rome", as_text=True))
    older = [*ASKED, old, said("function", "21", name="weather")]
    newer = [*ASKED, called("Rome"), said("tool", "21", name="weather")]
    answer = said("assistant", "Look:", function_call=function("Oslo", as_text=True))
    plain = read(shape, row_of(shape, newer, called("Oslo", content="Look:")))
    same(read(shape, row_of(shape, older, answer)), plain)
    nothing = said("assistant", "Yes.", function_call=None)
    if shape != "openai":
        text = said("assistant", "Yes.")
        same(read(shape, row_of(shape, older, nothing)), read(shape, row_of(shape, newer, text)))


def test_an_answer_may_be_words_and_several_calls():
    turns = [said("assistant", "Look:")]
    turns += [said("tool_call", json.dumps(function(city))) for city in ("Rome", "Oslo")]
    whole = called("Rome", "Oslo", content="Look:")
    plain = read("preference", row_of("preference", ASKED, whole))
    same(read("preference", {"prompt": ASKED, "chosen": turns, "rejected": [PLAIN]}), plain)
    row = {"messages": [*ASKED, PLAIN], "rejected_response": turns}
    same(read("ms_swift", row), read("ms_swift", row | {"rejected_response": [whole]}))
    dialogue = {"messages": [*ASKED, PLAIN], "rejected_messages": [*ASKED, *turns]}
    same(read("ms_swift", dialogue), read("ms_swift", dialogue | {"rejected_messages": [*ASKED, whole]}))


def test_turns_as_text_are_read_too():
    row = row_of("ms_swift", [ASKED[0], *PASTS["a list of calls"], *PAST[3:]], called("Bern"))
    same(read("ms_swift", row | {"messages": json.dumps(row["messages"])}), read("ms_swift", row))


BAD = {
    "cut off": '{"name": "weather", "arg',
    "words": "weather in Rome",
    "blank": " ",
    "null": None,
    "an empty list": "[]",
    "a number": "3",
    "no name": '{"arguments": {}}',
    "arguments that are none": '{"name": "weather", "arguments": "Rome"}',
    "another key": '{"name": "weather", "parameters": {"city": "Rome"}}',
    "a name twice": '{"name": "weather", "name": "time", "arguments": {}}',
    "one bad call of two": '[{"name": "weather", "arguments": {}}, "x"]',
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("role", CALL_ROLES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_call_that_is_none_is_refused_in_a_sentence(shape, role, bad):
    turn = said(role, BAD[bad])
    past = [*ASKED, turn, said("tool", "21")]
    for row in (row_of(shape, past, PLAIN | {"content": "Yes."}), row_of(shape, ASKED, turn)):
        reading = read(shape, row)
        assert reading.reason == "bad_tool_call" and len(reading.detail) > 20


def test_two_words_for_calls_in_one_turn_are_refused():
    both = called("Rome") | {"function_call": function("Oslo")}
    reading = read("preference", row_of("preference", ASKED, both))
    assert reading.reason == "bad_tool_call" and "keep one" in reading.detail
    ignoring = read("preference", row_of("preference", ASKED, both), ignore=("chosen.function_call",))
    same(ignoring, read("preference", row_of("preference", ASKED, called("Rome"))))


@pytest.mark.parametrize("shape", ["preference", "ms_swift", "sharegpt"])
def test_what_a_call_has_beside_is_refused_by_its_name(shape):
    turns = [said("tool_call", json.dumps(function(city)), loss=False) for city in ("Rome", "Oslo")]
    del turns[0]["loss"]
    past = [*ASKED, *turns, said("tool_response", "21")]
    reading = read(shape, row_of(shape, past, PLAIN | {"content": "Yes."}))
    assert reading.reason == "unread_column" and ".loss" in reading.detail


def test_other_spellings_are_mapped_to_calls_and_results():
    past = [*ASKED, said("My_Call", json.dumps(function("Rome"))), said("seen", "21")]
    roles = {"my_call": "tool_call", "seen": "tool_response"}
    plain = [*ASKED, called("Rome"), said("tool", "21")]
    for shape in ("preference", "ms_swift", "sharegpt"):
        row = row_of(shape, past, PLAIN | {"content": "Yes."})
        same(read(shape, row, roles=roles), read(shape, row_of(shape, plain, PLAIN | {"content": "Yes."})))
    reading = read("preference", row_of("preference", past, PLAIN | {"content": "Yes."}))
    assert reading.reason == "bad_role"


@pytest.mark.parametrize("role", ["tool", "assistant", "user", "system", "tool_response"])
@pytest.mark.parametrize("spelling", [*CALL_ROLES, "ToolCalls", "function-call"])
def test_a_call_is_mapped_to_nothing_that_would_be_text(spelling, role):
    with pytest.raises(UserError, match="trained as text"):
        Prompts(roles={spelling: role})
    assert Prompts(roles={spelling: "tool_call"}).roles


@pytest.mark.parametrize("role", ["my_call", "ToolCalls", "tool_use", "function_invocation", *CALL_ROLES])
def test_no_call_is_advised_to_be_text(role):
    advice = role_in_words(role)
    for known in ("tool", "assistant", "user", "system"):
        assert f'= "{known}"' not in advice
    assert "call" in advice
    assert '= "tool"' in role_in_words("function_result") and '= "user"' in role_in_words("request")
