"""Rows under names of their own give the prompts and pairs of the same rows renamed by hand."""

import json

import pytest

from engine.formats import Format
from engine.raw import Row, rows
from engine.recognise import format_of
from schemas.errors import UserError
from schemas.extensions import included
from schemas.sections import Prompts


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def read(name, *values, **settings):
    """The readings of some rows by a format, under settings of [prompts]."""
    given = [Row("f", line, json.dumps(value)) for line, value in enumerate(values, 1)]
    return Format.of(included("sql", name, ".sql"), Prompts(**settings)).read(given)


def said(reading):
    """What a reading says, without where it is from."""
    return reading.messages, reading.responses, reading.reference, reading.split


STACK = {"question": "How do I sort a list?", "response_j": "Call sorted.", "response_k": "No idea."}
WEBGPT = {
    "question": {"dataset": "eli5", "id": "7", "full_text": "Why is the sky blue?"},
    "answer_0": "It scatters.",
    "answer_1": "Nobody knows.",
}
ORCA = {"system": "Be brief.", "question": "Two and two?", "chosen": "4", "rejected": "5"}
ALPACA = {"instruction": "Translate.", "input": "Hund", "chosen": "dog", "rejected": "cat"}
# A peer's row, the mapping for it, and the row as it is when renamed by hand.
PEERS = {
    "stack-exchange-paired": (
        STACK,
        {"prompt": "question", "chosen": "response_j", "rejected": "response_k"},
        {"prompt": STACK["question"], "chosen": "Call sorted.", "rejected": "No idea."},
    ),
    "webgpt": (
        WEBGPT,
        {"prompt": "question.full_text", "chosen": "answer_0", "rejected": "answer_1"},
        {"prompt": "Why is the sky blue?", "chosen": "It scatters.", "rejected": "Nobody knows."},
    ),
    "intel orca": (
        ORCA,
        {"prompt": "question"},
        {"system": "Be brief.", "prompt": "Two and two?", "chosen": "4", "rejected": "5"},
    ),
    "alpaca": (
        ALPACA,
        {"prompt": ["instruction", "input"]},
        {"prompt": "Translate.\nHund", "chosen": "dog", "rejected": "cat"},
    ),
    "alpaca without input": (
        ALPACA | {"input": " "},
        {"prompt": ["instruction", "input"]},
        {"prompt": "Translate.", "chosen": "dog", "rejected": "cat"},
    ),
    "alpaca without the column": (
        {name: value for name, value in ALPACA.items() if name != "input"},
        {"prompt": ["instruction", "input"]},
        {"prompt": "Translate.", "chosen": "dog", "rejected": "cat"},
    ),
    "swapped": (
        {"prompt": "q", "chosen": "bad", "rejected": "good"},
        {"chosen": "rejected", "rejected": "chosen"},
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
    ),
    "in one object": (
        {"fields": {"prompt": "q", "chosen": "a", "rejected": {"text": "b"}}},
        {"prompt": "fields.prompt", "chosen": "fields.chosen", "rejected": "fields.rejected.text"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ),
    "a side's own text": (
        {"prompt": "q", "chosen": {"text": "a"}, "rejected": {"text": "b"}},
        {"chosen": "chosen.text", "rejected": "rejected.text"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ),
    "a name with a dot": (
        {"q.text": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q.text"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ),
    "a right answer": (
        {"question": "q", "gold": "a", "chosen": "a", "rejected": "b"},
        {"prompt": "question", "reference": "gold"},
        {"prompt": "q", "reference": "a", "chosen": "a", "rejected": "b"},
    ),
    "the same under both names": (
        {"prompt": "q", "question": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "question"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ),
    "an empty column of our name": (
        {"prompt": " ", "question": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "question"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
    ),
    "a split": (
        {"prompt": "q", "chosen": "a", "rejected": "b", "fold": "test"},
        {"split": "fold"},
        {"prompt": "q", "chosen": "a", "rejected": "b", "split": "test"},
    ),
}


@pytest.mark.parametrize("peer", PEERS)
def test_a_mapping_reads_what_renaming_by_hand_gives(tmp_path, peer):
    row, columns, by_hand = PEERS[peer]
    (mapped,) = read("preference", row, columns=columns)
    (renamed,) = read("preference", by_hand)
    assert renamed.reason is None and said(mapped) == said(renamed)
    assert mapped.unread.refused == () and mapped.row.text == json.dumps(row)
    path = tmp_path / "x.jsonl"
    # Of several columns that are joined, not every row has each.
    more = {} if "instruction" not in row else {"input": ""}
    path.write_text(json.dumps(row) + "\n" + json.dumps(more | row) + "\n")
    assert format_of({"x.jsonl": path}, Prompts(columns=columns)).stem == "preference"


def test_completions_under_another_name_keep_their_scores():
    rated = [{"response": "a", "overall_score": 3.0}, {"response": "b", "overall_score": 1.0}]
    columns = {"instruction": "question", "completions": "answers"}
    (mapped,) = read("ultrafeedback", {"question": "q", "answers": rated}, columns=columns)
    (by_hand,) = read("ultrafeedback", {"instruction": "q", "completions": rated})
    assert said(mapped) == said(by_hand) and mapped.reason is None


def test_a_number_that_is_none_in_a_moved_column_is_still_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"question": "q", "answers": [{"response": "a", "overall_score": NaN}]}\n')
    columns = {"instruction": "question", "completions": "answers"}
    reader = Format.of(included("sql", "ultrafeedback", ".sql"), Prompts(columns=columns))
    (reading,) = reader.read(list(rows({"x": path}, 1000)))
    assert reading.reason == "nan" and "completions.overall_score" in reading.detail


def test_what_is_beside_a_part_that_is_taken_is_judged_by_itself():
    columns = PEERS["webgpt"][1]
    (reading,) = read("preference", WEBGPT, columns=columns)
    assert reading.unread.left_out == ("question.dataset", "question.id")
    tools = WEBGPT | {"question": WEBGPT["question"] | {"tools": ["search"]}}
    (reading,) = read("preference", tools, columns=columns)
    assert reading.reason == "unread_column" and "question.tools" in reading.detail
    (reading,) = read("preference", tools, columns=columns, ignore=("question.tools",))
    assert reading.reason is None


@pytest.mark.parametrize(
    ("row", "columns", "reason", "sentence"),
    [
        (
            {"prompt": "p", "question": "q", "chosen": "a", "rejected": "b"},
            {"prompt": "question"},
            "two_columns",
            'prompts.ignore = ["prompt"]',
        ),
        (
            ALPACA | {"input": ["Hund"]},
            {"prompt": ["instruction", "input"]},
            "missing_or_mistyped",
            "input is a list of 1 string",
        ),
        (
            {"question": 7, "chosen": "a", "rejected": "b"},
            {"prompt": "question"},
            "missing_or_mistyped",
            "prompt is the number 7",
        ),
    ],
)
def test_a_row_that_a_mapping_cannot_read_says_why(row, columns, reason, sentence):
    (reading,) = read("preference", row, columns=columns)
    assert reading.reason == reason and sentence in reading.detail


def test_what_is_ignored_is_gone_before_the_mapping():
    row = {"prompt": "p", "question": "q", "chosen": "a", "rejected": "b"}
    (reading,) = read("preference", row, columns={"prompt": "question"}, ignore=("prompt",))
    assert reading.messages == [user("q")]


@pytest.mark.parametrize("file_format", ["auto", "preference"])
@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"promt": "question"}, "did you mean 'prompt'"),
        ({"prompt": "qestion"}, "did you mean 'question'"),
        ({"prompt": "nothing.there"}, "its columns are question, response_j, response_k"),
        ({"prompt": ["question", "input"]}, 'no row has "input"'),
    ],
)
def test_a_name_that_is_not_there_is_refused_before_any_work(tmp_path, file_format, columns, sentence):
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(STACK)}\n" * 3)
    with pytest.raises(UserError) as error:
        format_of({"x.jsonl": path}, Prompts(format=file_format, columns=columns))
    assert sentence in str(error.value) and "prompts.columns" in str(error.value)


def test_a_column_that_the_format_of_auto_does_not_read_is_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "q", "chosen": "a", "rejected": "b", "task": "x"}\n')
    with pytest.raises(UserError, match="the format preference reads no column instruction"):
        format_of({"x.jsonl": path}, Prompts(columns={"instruction": "task"}))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"columns": {"prompt": 7}}, "[prompts.columns] prompt = 7: expected the name"),
        ({"columns": {"prompt": []}}, "expected the name of a column"),
        ({"columns": {"prompt": ["a", "a"]}}, "names a column twice"),
        ({"roles": {"customer": "usr"}}, "[prompts.roles] customer = \"usr\"; did you mean 'user'"),
        ({"roles": {"Bot": "user", "bot": "assistant"}}, "differ in case alone"),
        ({"turns": {"rol": "speaker"}}, "did you mean 'role'"),
        ({"turns": {"role": "who", "content": "who"}}, "keep one"),
        ({"turns": {"role": 1}}, "expected the key of a turn"),
        ({"metadata": ("*", "id")}, "name it alone, or name each column"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings, sentence):
    with pytest.raises(UserError) as error:
        Prompts(**settings)
    assert sentence in str(error.value)


SPOKEN = [("customer", "hi"), ("Agent", "hello"), ("CUSTOMER", "help")]
ROLES = {"Customer": "user", "agent": "assistant"}
TURNS = [user("hi"), assistant("hello"), user("help")]


@pytest.mark.parametrize(("who", "what"), [("role", "content"), ("from", "value")])
def test_roles_in_other_spellings(who, what):
    turns = [{who: role, what: text} for role, text in SPOKEN]
    sides = {"chosen": {who: "agent", what: "a"}, "rejected": {who: "AGENT", what: "b"}}
    (reading,) = read("sharegpt", {"conversations": turns} | sides, roles=ROLES)
    assert reading.reason is None and reading.messages == TURNS
    assert [response["text"] for response in reading.responses] == ["a", "b"]
    whole = {name: [*turns, side] for name, side in sides.items()}
    (reading,) = read("preference", whole, roles=ROLES)
    assert reading.reason is None and reading.messages == TURNS


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("prompts", {"messages": [{"role": "customer", "content": "hi"}]}),
        ("prompts", {"prompt": [{"role": "customer", "content": "hi"}]}),
        (
            "sharegpt",
            {"conversations": [{"from": "customer", "value": "hi"}], "chosen": "a", "rejected": "b"},
        ),
        (
            "preference",
            {
                "prompt": "q",
                "chosen": [{"role": "customer", "content": "a"}],
                "rejected": [{"role": "customer", "content": "b"}],
            },
        ),
    ],
)
def test_an_unknown_role_is_refused_by_its_name_with_the_setting(name, row):
    (reading,) = read(name, row)
    assert reading.reason == "bad_role" and '[prompts.roles] customer = "user"' in reading.detail
    (reading,) = read(name, row, roles={"agent": "assistant"})
    assert reading.reason == "bad_role"


def test_auto_says_why_mapped_rows_are_not_read(tmp_path):
    path = tmp_path / "x.jsonl"
    side = {"role": "helper", "content": "a"}
    path.write_text(json.dumps({"q": "why?", "chosen": [side], "rejected": [side]}) + "\n")
    with pytest.raises(UserError) as error:
        format_of({"x.jsonl": path}, Prompts(columns={"prompt": "q"}))
    assert "[prompts.roles] helper" in str(error.value) and "look like" not in str(error.value)


def test_keys_of_turns_under_other_names():
    turns = [{"speaker": role, "text": text} for role, text in SPOKEN]
    keys = {"role": "speaker", "content": "text"}
    last = [{"speaker": "agent", "text": "a"}], [{"speaker": "agent", "text": "b"}]
    row = {"prompt": turns, "chosen": last[0], "rejected": last[1]}
    (reading,) = read("preference", row, turns=keys, roles=ROLES)
    assert reading.reason is None and reading.messages == TURNS and reading.unread.left_out == ()
    (reading,) = read("prompts", {"messages": turns})
    assert '[prompts.turns] role = "speaker", content = "text"' in reading.detail
    both = [{"speaker": "customer", "text": "hi", "content": "bye"}]
    (reading,) = read("prompts", {"messages": both}, turns=keys, roles=ROLES)
    assert reading.reason == "two_columns" and "messages.content" in reading.detail


AS_TEXT = {
    "preference": [
        ({"prompt": TURNS, "chosen": [assistant("a")], "rejected": [assistant("b")]}, ("prompt", "chosen")),
        ({"chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")]}, ("chosen", "rejected")),
        ({"prompt": "q", "chosen": assistant("a"), "rejected": assistant("b")}, ("chosen", "rejected")),
    ],
    "prompts": [({"messages": TURNS}, ("messages",)), ({"prompt": TURNS}, ("prompt",))],
    "sharegpt": [
        (
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "a"},
                "rejected": {"from": "gpt", "value": "b"},
            },
            ("conversations", "chosen", "rejected"),
        )
    ],
    "ultrafeedback": [
        (
            {
                "instruction": "q",
                "completions": [{"response": r, "score": s} for r, s in (("a", 2), ("b", 1))],
            },
            ("completions",),
        )
    ],
}


@pytest.mark.parametrize("name", AS_TEXT)
def test_json_in_a_string_is_read_as_what_it_is(tmp_path, name):
    for row, columns in AS_TEXT[name]:
        as_text = row | {column: json.dumps(row[column]) for column in columns}
        plain, unpacked = read(name, row, as_text)
        assert plain.reason is None and said(unpacked) == said(plain)
        assert unpacked.row.text == json.dumps(as_text)
        path = tmp_path / "x.jsonl"
        path.write_text(json.dumps(as_text) + "\n")
        assert format_of({"x.jsonl": path}, Prompts()).stem == name


def test_json_of_turns_under_other_names():
    text = json.dumps([{"speaker": role, "text": text} for role, text in SPOKEN])
    keys = {"role": "speaker", "content": "text"}
    (reading,) = read("prompts", {"prompt": text}, turns=keys, roles=ROLES)
    assert reading.reason is None and reading.messages == TURNS


TEXTS = [
    "[1, 2]",
    '{"a": 1}',
    "null",
    '["a", "b"]',
    "[]",
    '[{"name": "x"}]',
    '{"role": "admin"}',
    "[sic] why?",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_about_json_stays_a_text(text):
    (reading,) = read("prompts", {"prompt": text})
    assert reading.messages == [user(text)]
    (reading,) = read("preference", {"prompt": "q", "chosen": text, "rejected": "no"})
    assert [response["text"] for response in reading.responses] == [text, "no"]


def test_nothing_as_text_in_a_column_of_lists_is_nothing():
    for nothing in ("null", "", " "):
        (reading,) = read("prompts", {"prompt": "q", "messages": nothing})
        assert reading.reason is None and reading.messages == [user("q")]


def test_a_name_that_stands_twice_in_json_in_a_string_is_refused():
    (reading,) = read("prompts", {"prompt": '[{"role": "user", "content": "a", "content": "b"}]'})
    assert reading.reason == "duplicate_key" and "content" in reading.detail
