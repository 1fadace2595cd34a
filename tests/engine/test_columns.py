"""What a row has beside what its format reads: refused by name where it may matter, else named."""

import json

import pytest

from engine.column_names import changes_meaning, holds, is_metadata
from engine.columns import columns_of, without
from engine.formats import Format
from engine.raw import Row, rows
from schemas.extensions import included

SIDES = {"prompt": "q", "chosen": "a", "rejected": "b"}
TURN = {"role": "assistant", "content": "a"}
OF_A_DIALOGUE = {"prompt": [{"role": "user", "content": "q"}], "chosen": [TURN], "rejected": "b"}


def read(name, *values, **settings):
    given = [Row("f", line, json.dumps(value)) for line, value in enumerate(values, 1)]
    return Format(included("sql", name, ".sql"), **settings).read(given)


def test_a_format_says_what_it_reads():
    columns = columns_of("-- format: x\n-- reads: a[b c], d, *[e]\n-- leaves: f, g[h i]\nselect")
    assert columns.reads == {
        "a": frozenset("bc"),
        "d": frozenset(),
        "*": frozenset("e"),
    }
    assert columns.leaves == {"f", "g.h", "g.i"}
    assert columns_of("-- format: x\nselect") is None


MEANING = (
    "tools functions tool_calls function_call reasoning_content reasoning thinking images image image_url "
    "audio videos system system_prompt question instruction input query context documents history messages "
    "conversations prompt chosen rejected response responses completions outputs answer generations "
    "rejected_response label labels kto_tag margin score_chosen chosen-rating all_rm_scores rewards "
    "scoreChosen all_generated_responses chat_template_kwargs tool_call_id"
)
HARMLESS = (
    "id prompt_id source model chosen_model generation_models language date annotator annotator_confidence "
    "num_turns has_image response_length category topic comment turn title 列"
)


@pytest.mark.parametrize("name", MEANING.split())
def test_names_that_may_change_what_is_learned(name):
    assert changes_meaning(name, "text") and not is_metadata(name, "text")
    (reading,) = read("preference", SIDES | ({name: "text"} if name not in ("prompt", "chosen") else {}))
    if name in ("score_chosen", "chosen-rating"):
        assert reading.reason == "bad_rating"
    elif name == "messages":
        assert reading.reason == "two_prompts"
    elif name == "tools":
        assert reading.reason == "bad_tools"
    elif name not in ("system", "prompt", "chosen", "rejected"):
        assert reading.reason == "unread_column", name
        assert f'prompts.ignore = ["{name}"]' in reading.detail


@pytest.mark.parametrize("name", HARMLESS.split())
def test_names_that_are_left_out_and_said(name):
    assert not changes_meaning(name, "text")
    (reading,) = read("preference", SIDES | {name: "text"})
    assert reading.reason is None
    assert reading.unread.left_out == (name,)


@pytest.mark.parametrize("value", [None, "", " ", [], {}, [None, ""], {"a": None, "b": []}, float("nan")])
def test_what_says_nothing_is_not_there(value):
    assert not holds(value)
    if value == value:
        (reading,) = read("preference", SIDES | {"tools": value})
        assert reading.reason is None and reading.unread.left_out == ()


@pytest.mark.parametrize("value", [0, False, "x", [0], {"a": 1}])
def test_what_says_something_is_there(value):
    assert holds(value)


@pytest.mark.parametrize(
    ("column", "more"),
    [
        ("chosen", {"function_call": {"name": "f"}}),
        ("chosen", {"function_call": {"name": "f"}, "content": None}),
        ("rejected", {"weight": 0}),
        ("prompt", {"images": ["x.png"]}),
        ("prompt", {"train": False}),
    ],
)
def test_keys_of_turns_are_looked_at(column, more):
    row = OF_A_DIALOGUE | {"rejected": [TURN | {"content": "b"}]}
    changed = row | {column: [row[column][0] | more]}
    unread = f"{column}.{next(iter(more))}"
    (reading,) = read("preference", changed)
    assert (reading.reason, reading.unread.refused) == ("unread_column", (unread,))
    (reading,) = read("preference", changed, ignore=[unread])
    assert reading.reason == ("missing_or_mistyped" if "content" in more else None)


def test_keys_of_completions_are_looked_at():
    row = {"instruction": "q", "completions": [{"response": "a", "score": 1, "images": ["x"], "model": "m"}]}
    (reading,) = read("ultrafeedback", row)
    assert reading.unread.refused == ("completions.images",)
    (reading,) = read("ultrafeedback", row, ignore=["completions.images"])
    assert reading.reason is None and reading.unread.left_out == ("completions.model",)


def test_what_a_format_knowingly_leaves_out_is_said_and_costs_no_row():
    """The columns of UltraFeedback as it is published."""
    answer = {
        "annotations": {"helpfulness": {"Rating": "4"}},
        "critique": "Good.",
        "custom_system_prompt": "Help.",
        "fine-grained_score": 4.5,
        "model": "m",
        "overall_score": 9.0,
        "principle": "helpfulness",
        "response": "a",
    }
    row = {
        "source": "web",
        "instruction": "q",
        "models": ["m"],
        "completions": [answer, answer | {"response": "b"}],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }
    (reading,) = read("ultrafeedback", row)
    assert reading.reason is None
    assert {"source", "correct_answers", "completions.custom_system_prompt"} <= set(reading.unread.left_out)


def test_what_is_ignored_is_not_there():
    row = SIDES | {"system": "s", "history": [TURN], "margin": 1.5}
    (reading,) = read("preference", row)
    assert reading.unread.refused == ("history", "margin")
    (reading,) = read("preference", row, ignore=["history", "margin", "system"])
    assert reading.reason is None
    assert [message["role"] for message in reading.messages] == ["user"]
    assert without({"a": [{"b": 1, "c": 2}], "d": 3}, ["a.b", "d", "e"]) == {"a": [{"c": 2}]}


def test_an_own_format_that_says_nothing_is_not_checked(tmp_path):
    path = tmp_path / "mine.sql"
    path.write_text(
        "select n, [{role: 'user', content: text_at(row, '$.q')}] as messages, [] as responses, "
        "null as problem from raw"
    )
    given = [Row("f", 1, '{"q": "x", "tools": [1]}')]
    assert Format(path).read(given)[0].reason is None
    path.write_text("-- reads: q\n" + path.read_text())
    assert Format(path).read(given)[0].reason == "unread_column"


LINES = [
    '{"prompt": "q", "chosen": "a", "rejected": "b", "confidence": NaN}',
    '{"prompt": "q", "chosen": "a", "rejected": "b", "stats": {"x": [1, -Infinity]}}',
    '{"prompt": "q", "chosen": NaN, "rejected": "b"}',
    '{"prompt": "q", "chosen": "a", "rejected": "b", "scores": [1.5, NaN]}',
    '{"prompt": "\\ud800", "chosen": "a", "rejected": "b", "confidence": NaN}',
]


def test_nan_costs_a_row_only_where_it_is_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(LINES))
    given = list(rows({"x.jsonl": path}, 1000))
    readings = Format(included("sql", "preference", ".sql")).read(given)
    reasons = [reading.reason for reading in readings]
    assert reasons[:4] == [None, None, "nan", "unread_column"]
    assert reasons[4] in ("nan", "lone_surrogate")
    assert readings[2].row.text == LINES[2]


def test_no_prompt_is_made_up_where_a_column_could_be_it():
    sides = {"chosen": "The sky is blue", "rejected": "The sky is green"}
    for name in ("question", "title", "body", "列"):
        (reading,) = read("preference", sides | {name: "What colour?"})
        assert reading.reason == "no_prompt" and name in reading.detail
    (reading,) = read("preference", sides | {"title": "What colour?"}, ignore=["title"])
    assert reading.messages == [{"role": "user", "content": "The sky is"}]
    (reading,) = read("preference", sides | {"source": "web", "prompt_id": "7", "votes": 3})
    assert reading.reason is None
    (reading,) = read("preference", {"chosen": "Yes", "rejected": "No"})
    assert reading.reason == "empty_prompt" and "no column prompt" in reading.detail
