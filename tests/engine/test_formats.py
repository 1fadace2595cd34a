"""Formats read what they are for and say of each other row why not."""

import itertools
import json

import pytest

from engine.formats import Format, shipped
from engine.raw import Row, rows
from engine.recognise import recognise
from schemas.errors import UserError
from schemas.extensions import included
from tests.conftest import SHARED
from tests.engine.test_shapes import SHAPES


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def parts(*texts, role="user"):
    """A turn whose content is a list of parts."""
    return [{"role": role, "content": [{"type": "text", "text": text} for text in texts]}]


HH = "\n\nHuman: hi\n\nAssistant: yo\n\nHuman: and?\n\nAssistant:"
TURNS = [user("hi"), assistant("yo"), user("and?")]
GOOD = {
    "hh": [
        ({"chosen": HH + " good", "rejected": HH + " bad"}, TURNS, ["good", "bad"]),
        ({"chosen": HH[2:] + " good", "rejected": HH[2:] + " bad"}, TURNS, ["good", "bad"]),
    ],
    "preference": [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, [user("q")], ["a", "b"]),
        (
            {"prompt": "q", "system": "s", "chosen": "a", "rejected": "b"},
            [{"role": "system", "content": "s"}, user("q")],
            ["a", "b"],
        ),
        ({"prompt": TURNS, "chosen": [assistant("a")], "rejected": [assistant("b")]}, TURNS, ["a", "b"]),
        (
            {"prompt": "q", "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
            [user("q")],
            ["a", "b"],
        ),
        ({"chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")]}, TURNS, ["a", "b"]),
        (
            {"prompt": None, "chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")]},
            TURNS,
            ["a", "b"],
        ),
        (
            {"chosen": "The sky is blue", "rejected": "The sky is green today"},
            [user("The sky is")],
            ["blue", "green today"],
        ),
        # A prompt beside whole dialogues is their first user turn; theirs is the prompt.
        (
            {"prompt": "hi", "chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")]},
            TURNS,
            ["a", "b"],
        ),
        (
            {"prompt": parts("q", "?"), "chosen": parts("a", role="assistant"), "rejected": [assistant("b")]},
            [user("q?")],
            ["a", "b"],
        ),
        ({"chosen": "Q\nAnswer one", "rejected": "Q\nAnother"}, [user("Q")], ["Answer one", "Another"]),
        ({"chosen": "你好吗？很好", "rejected": "你好吗？不好"}, [user("你好吗？")], ["很好", "不好"]),
    ],
    "sharegpt": [
        (
            {
                "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}],
                "chosen": {"from": "gpt", "value": "a"},
                "rejected": {"from": "gpt", "value": "b"},
            },
            [{"role": "system", "content": "s"}, user("q")],
            ["a", "b"],
        ),
        (
            {
                "conversations": [{"from": "human", "value": [{"type": "text", "text": "q"}]}],
                "chosen": [{"from": "gpt", "value": "a"}],
                "rejected": "b",
            },
            [user("q")],
            ["a", "b"],
        ),
    ],
    "ultrafeedback": [
        (
            {
                "instruction": "q",
                "completions": [
                    {"response": r, "overall_score": s, "fine-grained_score": f}
                    for r, s, f in (("a", 9, 4.5), ("b", 10, 1), ("c", 3, None), ("d", 2, "N/A"))
                ],
            },
            [user("q")],
            ["a", "b", "c", "d"],
        ),
    ],
    "gsm8k": [
        (
            {
                "question": "q",
                "ground_truth": "1+1=<<1+1=2>>2\nA: 2",
                "6b": {"is_correct": False, "solution": "A: <<x>>3"},
                "175b": {"is_correct": True, "solution": "A: 2"},
                "empty": {"is_correct": False, "solution": ""},
            },
            [user("q")],
            ["1+1=2\nA: 2", "A: 3", "A: 2"],
        ),
    ],
    "prompts": [
        ({"prompt": "q"}, [user("q")], []),
        ({"messages": TURNS}, TURNS, []),
        ({"messages": parts("a", "b")}, [user("ab")], []),
    ],
}


def as_rows(values):
    return [Row("f", line, json.dumps(value)) for line, value in enumerate(values, 1)]


def read(name, *values):
    return Format(included("sql", name, ".sql")).read(as_rows(values))


@pytest.mark.parametrize("name", GOOD)
def test_good_rows(name):
    readings = read(name, *[value for value, *_ in GOOD[name]])
    for reading, (_, messages, responses) in zip(readings, GOOD[name], strict=True):
        assert (reading.reason, reading.detail) == (None, None)
        assert reading.messages == messages
        assert [response["text"] for response in reading.responses] == responses


@pytest.mark.parametrize(("name", "scores"), [("ultrafeedback", [4.5, 1.0, 3.0, 2.0]), ("hh", [1.0, 0.0])])
def test_scores(name, scores):
    (reading,) = read(name, GOOD[name][0][0])
    assert [response["score"] for response in reading.responses] == scores


BAD = [
    ("hh", {"chosen": HH + " a", "rejected": "\n\nHuman: other\n\nAssistant: b"}, "prompts_differ"),
    ("hh", {"chosen": HH, "rejected": HH + " b"}, "empty_response"),
    ("hh", {"chosen": HH + " a", "rejected": HH + " a"}, "same_responses"),
    ("hh", {"chosen": HH + " a\n\nHuman: more", "rejected": HH + " b"}, "no_response"),
    ("hh", {"chosen": HH + " a"}, "missing_or_mistyped"),
    ("hh", {"chosen": "text " + HH + " a", "rejected": HH + " b"}, "no_dialogue"),
    (
        "hh",
        {"chosen": "\n\nHuman:  \n\nAssistant: a", "rejected": "\n\nHuman: \n\nAssistant: b"},
        "empty_prompt",
    ),
    ("preference", {"prompt": 5, "chosen": "a", "rejected": "b"}, "missing_or_mistyped"),
    ("preference", {"prompt": "q", "chosen": 1, "rejected": "b"}, "missing_or_mistyped"),
    ("preference", {"prompt": "q", "chosen": ["a"], "rejected": ["b"]}, "missing_or_mistyped"),
    ("preference", {"prompt": " ", "chosen": "a", "rejected": "b"}, "empty_prompt"),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": " \n"}, "empty_response"),
    ("preference", {"prompt": "q", "chosen": [], "rejected": []}, "empty_response"),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": [assistant("b")]}, "missing_or_mistyped"),
    (
        "preference",
        {"prompt": "q", "chosen": [user("x"), assistant("a")], "rejected": [user("x"), assistant("b")]},
        "prompts_differ",
    ),
    (
        "preference",
        {"chosen": [user("x"), assistant("a")], "rejected": [user("y"), assistant("b")]},
        "prompts_differ",
    ),
    (
        "preference",
        {
            "prompt": [{"role": "wizard", "content": "x"}],
            "chosen": [assistant("a")],
            "rejected": [assistant("b")],
        },
        "bad_role",
    ),
    (
        "preference",
        {"prompt": [user(7)], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        "missing_or_mistyped",
    ),
    (
        "preference",
        {"prompt": [user("q"), assistant("x")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        "last_turn",
    ),
    (
        "sharegpt",
        {"conversations": "x", "chosen": {"value": "a"}, "rejected": {"value": "b"}},
        "missing_or_mistyped",
    ),
    ("ultrafeedback", {"instruction": "q", "completions": []}, "missing_or_mistyped"),
    ("prompts", {"prompt": "q", "chosen": "a", "rejected": "b"}, "has_responses"),
    ("prompts", {}, "missing_or_mistyped"),
    ("prompts", {"prompt": "q", "completion": "a", "label": True}, "has_responses"),
    ("preference", {"chosen": HH[2:] + " a", "rejected": HH[2:] + " b"}, "hh_dialogue"),
]


@pytest.mark.parametrize(("name", "value", "reason"), BAD)
def test_bad_rows(name, value, reason):
    good = GOOD[name][0][0]
    before, reading, after = read(name, good, value, good)
    assert reading.reason == reason and reading.detail
    assert before.reason is None and after.reason is None


IMAGE = [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image_url", "image_url": {}}]}]
SAYS = [
    (
        {"rejected": ["x", "y", "z"]},
        "missing_or_mistyped",
        "rejected is a list of 3 strings; expected a string or",
    ),
    ({"rejected": None}, "missing_or_mistyped", "rejected is null; expected a string or a list of turns"),
    ({"chosen": 7}, "missing_or_mistyped", "chosen is the number 7"),
    ({"chosen": {"text": "a"}}, "missing_or_mistyped", "chosen is an object {text}"),
    ({"chosen": [1, "a"]}, "missing_or_mistyped", "chosen is a list of 2 values of several kinds"),
    ({"prompt": True}, "missing_or_mistyped", "prompt is true"),
    ({"prompt": [user(7)]}, "missing_or_mistyped", "prompt has a turn whose content is the number 7"),
    (
        {"prompt": [{"from": "human", "value": "q"}]},
        "missing_or_mistyped",
        "this one is an object {from, value}",
    ),
    ({"prompt": [{"content": "q"}]}, "bad_role", "prompt has a turn whose role is missing"),
    ({"prompt": IMAGE}, "content_part", "a part of type image_url; only text is read"),
    ({"prompt": [user([])]}, "missing_or_mistyped", "content is an empty list"),
    ({"system": ["s"]}, "missing_or_mistyped", "system is a list of 1 string"),
    (
        {"chosen": [assistant("a")]},
        "missing_or_mistyped",
        "chosen is a list of 1 object and rejected is a string",
    ),
]


@pytest.mark.parametrize(("change", "reason", "said"), SAYS)
def test_a_refusal_says_what_the_value_is(change, reason, said):
    (reading,) = read("preference", {"prompt": "q", "chosen": "a", "rejected": "b"} | change)
    assert reading.reason == reason
    assert said in reading.detail


MORE = [
    ("prompts", {"prompt": 7}, "prompt is the number 7"),
    ("prompts", {"messages": ["q"]}, "messages is a list of 1 string"),
    ("prompts", {"messages": IMAGE}, "a part of type image_url"),
    ("prompts", {"prompt": "q", "messages": TURNS}, 'differ; leave one out: prompts.ignore = ["messages"]'),
    ("hh", {"chosen": ["a"], "rejected": "b"}, "chosen is a list of 1 string; expected a string"),
    (
        "ultrafeedback",
        {"instruction": "q", "completions": [{"text": "a"}]},
        "completions is a list of 1 object",
    ),
    ("ultrafeedback", {"instruction": 1, "completions": []}, "instruction is the number 1"),
    ("gsm8k", {"question": None, "ground_truth": "1"}, "question is null"),
    ("sharegpt", {"conversations": [{"from": "tool", "value": "q"}]}, "from is tool; expected human, gpt"),
    ("sharegpt", {"conversations": [{"from": "human", "value": 3}]}, "value is the number 3"),
]
SHAREGPT = GOOD["sharegpt"][0][0]


@pytest.mark.parametrize(("name", "value", "said"), MORE)
def test_every_format_says_what_the_value_is(name, value, said):
    if name == "sharegpt":
        value = SHAREGPT | value
    (reading,) = read(name, value)
    assert reading.reason and said in reading.detail


def test_never_a_wrong_turn_as_the_response():
    """Several turns on a side, a side that is the user's, dialogues that do not begin with the prompt."""
    gpt, human = {"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}
    for change in ({"chosen": [human, gpt]}, {"rejected": [gpt, human]}, {"chosen": human}):
        (reading,) = read("sharegpt", SHAREGPT | change)
        assert reading.reason in ("missing_or_mistyped", "no_response")
    row = {"prompt": "other", "chosen": [*TURNS, assistant("a")], "rejected": [*TURNS, assistant("b")]}
    (reading,) = read("preference", row)
    assert reading.reason == "prompts_differ"


def test_gsm8k_keeps_its_truth_as_the_reference():
    (reading,) = read("gsm8k", GOOD["gsm8k"][0][0])
    assert reading.reference == reading.responses[0]["text"] == "1+1=2\nA: 2"


@pytest.mark.parametrize("name", GOOD)
def test_auto_recognises_each_format(name):
    values = [value for value, *_ in GOOD[name] * 3]
    assert recognise(as_rows(values)).stem == name


def test_auto_refuses_when_unsure():
    with pytest.raises(UserError, match=r"no format reads any of the first 1 rows.*name the format"):
        recognise([Row("f", 1, json.dumps({"text": "x"}))])


@pytest.mark.parametrize(
    ("file", "name"), [("hh-harmless.jsonl.gz", "hh"), ("sharegpt-dpo.json", "sharegpt")]
)
def test_auto_recognises_real_files(file, name):
    path = SHARED / "data" / file
    if not path.exists():
        pytest.skip(f"no {file} here")
    first_rows = list(itertools.islice(rows({file: path}, 1 << 20), 100))
    assert recognise(first_rows).stem == name


def test_a_format_of_ones_own(tmp_path):
    path = tmp_path / "mine.sql"
    path.write_text(
        "select n, [{role: 'user', content: text_at(row, '$.q')}] as messages, "
        "[{text: text_at(row, '$.a'), score: 2}] as responses, null as problem from raw where n <> 1;"
    )
    first, second = Format(path).read([Row("f", 1, '{"q": "x", "a": "y"}'), Row("f", 2, '{"q": "z"}')])
    assert first.messages == [user("x")] and first.responses == [{"text": "y", "score": 2.0}]
    assert second.reason == "format"  # the SQL lost the row, we do not
    path.write_text("select 1 as n")
    with pytest.raises(UserError, match="must give n, messages, responses and problem"):
        Format(path).read([Row("f", 1, "{}")])


def test_every_shipped_format_says_what_it_is():
    of_other_tools = {name for name, *_ in SHAPES.values()}
    assert {path.stem for path in shipped()} == set(GOOD) | of_other_tools
