"""What a model is told: the file's words and the user's text, which is never read as a template."""

import pytest

from engine.instructions import Instruction, conversation, quality_text, under
from schemas.errors import UserError

TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]


@pytest.mark.parametrize(
    "name",
    ["judge_rating_bare", "judge_pairwise_bare", "rewrite_maths", "rewrite_question", "rewrite_instruction"],
)
def test_every_file_says_all_that_it_is_given(name):
    values = {
        "conversation": "QQQ {{ x }}",
        "response": "RRR",
        "a": "AAA {% if %}",
        "b": "BBB",
        "chosen": "CCC",
        "rejected": "JJJ",
    }
    given = {
        "judge_rating_bare": ["conversation", "response"],
        "judge_pairwise_bare": ["conversation", "a", "b"],
    }
    used = given.get(name, ["conversation", "chosen", "rejected"])
    (message,) = Instruction(name)(**{key: values[key] for key in used})
    assert message["role"] == "user"
    assert all(values[key] in message["content"] for key in used)
    assert message["content"] == message["content"].strip()


@pytest.mark.parametrize("optional", ["", "OOO"])
@pytest.mark.parametrize(
    ("name", "begun", "given"),
    [
        ("judge_rating", "Rating: ", {"response": "RRR"}),
        ("judge_pairwise", "Response ", {"a": "AAA", "b": "BBB"}),
    ],
)
def test_a_judges_file_begins_the_answer_and_says_all_that_it_is_given(name, begun, given, optional):
    values = given | {"conversation": "QQQ {{ x }}", "low": 3, "high": 17}
    options = dict.fromkeys(["reference", "rubric", "think"], optional)
    question = Instruction(name).question(**values, **options)
    (message,) = question.messages
    assert question.begun == begun
    assert all(value in message["content"] for value in [*given.values(), "QQQ {{ x }}"])
    assert message["content"].count("OOO") == 2 * bool(optional)
    assert ("First say" in message["content"]) == bool(optional)
    assert message["content"] == message["content"].strip() and "\n\n\n" not in message["content"]
    if name == "judge_rating":
        assert "from 3 to 17" in message["content"]


def test_a_begun_answer_keeps_its_spaces_and_may_hold_values(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("Rate {{ response }}.{%- set answer %}  Of {{ response }}: {% endset %}\n")
    question = Instruction(str(own), "response").question(response="it {{ y }}")
    assert question.begun == "  Of it {{ y }}: "
    assert question.messages == [{"role": "user", "content": "Rate it {{ y }}."}]
    with pytest.raises(UserError, match=r"own.txt begins the answer .*only a judge's file"):
        Instruction(str(own))(response="x")
    own.write_text("Rate {{ response }}.")
    assert Instruction(str(own)).question(response="x").begun == ""


@pytest.mark.parametrize(
    "text",
    ["{{ response.__class__.__mro__[1].__subclasses__() }}", "{{ ''.__init__.__globals__ }}"],
)
def test_a_file_can_do_nothing_but_fill_in_values(tmp_path, text):
    own = tmp_path / "own.txt"
    own.write_text(text)
    with pytest.raises(UserError, match=r"own.txt"):
        Instruction(str(own), "response")


def test_a_file_of_ones_own_and_its_mistakes(tmp_path):
    own = tmp_path / "mine.txt"
    own.write_text("Rate {{ response }} of {{ question }}")
    with pytest.raises(
        UserError, match=r"mine.txt: 'question' is undefined; it may use conversation, response"
    ):
        Instruction(str(own))(conversation="a", response="b")
    own.write_text("one\n{% if %}")
    with pytest.raises(UserError, match=r"mine.txt: line 2 is no template"):
        Instruction(str(own))
    own.write_text("{{ response + 1 }}")
    with pytest.raises(UserError, match=r"mine.txt cannot be filled"):
        Instruction(str(own), "response")
    own.write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"mine.txt is not UTF-8"):
        Instruction(str(own))
    with pytest.raises(UserError, match="did you mean 'judge_rating'"):
        Instruction("judge_ratings")


def test_the_quality_prompt_stands_in_front_of_the_last_user_message():
    text = quality_text("quality")
    assert text.startswith("Please generate a response with a usefulness rating of 100 out of 100")
    assert text.endswith("Query:")

    def contents(*place):
        return [turn["content"] for turn in under(TURNS, text, *place)]

    assert contents() == ["be brief", "one", "two", f"{text} three"]
    assert contents("first_user") == ["be brief", f"{text} one", "two", "three"]
    assert contents("system") == [f"{text}\n\nbe brief", "one", "two", "three"]
    assert under(TURNS[1:2], text, "system") == [{"role": "system", "content": text}, TURNS[1]]
    assert TURNS[3]["content"] == "three"


def test_a_conversation_is_one_text():
    assert conversation(TURNS[1:2]) == "one"
    assert conversation(TURNS) == "System: be brief\n\nUser: one\n\nAssistant: two\n\nUser: three"
