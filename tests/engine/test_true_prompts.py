"""What is trained on is what the data means: no made-up prompt, no markup, no turns as text, one system."""

import json
import re
import shlex
import tomllib

import pytest

from engine.formats import Format
from engine.mapping import RowMapping
from engine.raw import Row
from engine.recognise import recognise
from engine.stages import prompts
from schemas.errors import UserError
from schemas.extensions import included
from schemas.recipe import load
from schemas.sections import Prompts
from tests.engine.planned import planning

SHARED_BEGINNING = {"chosen": "Seven times six is 42", "rejected": "Seven times six is 40"}
QUESTION = "How much is seven times six?"
ASKED = {"prompt": QUESTION, "chosen": "It is 42.", "rejected": "It is 40."}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def read(name, *values, **settings):
    given = [Row("f", line, json.dumps(value)) for line, value in enumerate(values, 1)]
    return Format(included("sql", name, ".sql"), **settings).read(given)


def test_a_prompt_is_guessed_only_where_there_is_no_such_key():
    (guessed,) = read("preference", SHARED_BEGINNING)
    assert guessed.messages == [user("Seven times six is")] and guessed.prompt_is_guessed
    for nothing in (None, "", " \n", []):
        (reading,) = read("preference", SHARED_BEGINNING | {"prompt": nothing})
        assert reading.reason == "empty_prompt" and not reading.prompt_is_guessed
        assert ("null" if nothing is None else "empty") in reading.detail
        (given_up,) = read("preference", SHARED_BEGINNING | {"prompt": nothing}, ignore=["prompt"])
        assert given_up.messages == guessed.messages
    (asked,) = read("preference", ASKED)
    assert not asked.prompt_is_guessed


@pytest.mark.parametrize("nothing", [None, "", []])
def test_whole_dialogues_have_their_prompt_in_themselves(nothing):
    row = {"prompt": nothing, "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]}
    (reading,) = read("preference", row)
    assert reading.messages == [user("q")] and not reading.prompt_is_guessed


COULD_BE_THE_PROMPT = [
    ("question", QUESTION),
    ("instruction", QUESTION),
    ("input", QUESTION),
    ("messages", [user(QUESTION)]),
    ("context", QUESTION),
    ("history", [["hello", "hi"]]),
    ("texts", [QUESTION]),
    ("row", {"asked": QUESTION}),
]


@pytest.mark.parametrize(("name", "value"), COULD_BE_THE_PROMPT)
def test_what_could_be_the_prompt_is_to_be_renamed_and_never_left_out(name, value):
    (reading,) = read("preference", SHARED_BEGINNING | {name: value, "id": "7", "source": "web"})
    assert reading.reason == "no_prompt"
    assert f'rename the column {name} to prompt: [prompts.columns] prompt = "{name}"' in reading.detail
    assert "prompts.ignore" not in reading.detail


def test_a_sentence_under_a_name_of_metadata_may_be_the_prompt_and_a_word_is_not():
    for name in ("source", "topic", "category"):
        (reading,) = read("preference", SHARED_BEGINNING | {name: "Multiply seven by six"})
        assert reading.reason == "no_prompt" and f'prompts.ignore = ["{name}"]' in reading.detail
        (reading,) = read("preference", SHARED_BEGINNING | {name: "web"})
        assert reading.reason is None
    (reading,) = read("preference", SHARED_BEGINNING | {"topic": "七乘以六等于多少"})
    assert reading.reason == "no_prompt"


@pytest.mark.parametrize(
    "name", ["the user's question", "123", "true", 'a "question"', "the.text", "frage-ü"]
)
def test_the_setting_that_names_the_prompt_holds_for_any_name(tmp_path, name):
    """It is read as it stands, as a line of the recipe and on the command line, and then the row is read."""
    row = SHARED_BEGINNING | {name: QUESTION}
    (reading,) = read("preference", row)
    setting = reading.detail.split("to prompt: [prompts.columns] ")[1]
    in_recipe, _, options = setting.partition(" (")
    assert tomllib.loads(in_recipe) == {"prompt": name}
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[prompts]\n")
    option, value = shlex.split(options.removesuffix(")"))
    assert option == "--set" and load(recipe, [value]).section("prompts").columns == {"prompt": name}
    (reading,) = read("preference", row, mapping=RowMapping({"prompt": name}))
    assert reading.reason is None and reading.messages == [user(QUESTION)]


def test_an_answer_that_begins_the_other_is_not_cut_to_nothing():
    long, short = "Seven times six is 42", "Seven times six"
    for chosen, rejected in ((long, short), (short, long), (long, short + " \n"), (short + "\n", long)):
        (reading,) = read("preference", {"chosen": chosen, "rejected": rejected})
        assert reading.messages == [user("Seven times")]
        assert {response["text"] for response in reading.responses} == {"six is 42", "six"}
    (reading,) = read("preference", {"chosen": "Paris is large", "rejected": "Paris"})
    assert reading.reason == "empty_prompt" and "beginning of the other" in reading.detail


MARKUP = [
    {"prompt": "\n\nHuman: 6 * 7?\n\nAssistant:"},
    {"prompt": "human: 6 * 7?\nassistant:"},
    {"prompt": "User: 6 * 7?\nAssistant:"},
    {"prompt": "6 * 7?\n\nAssistant: "},
    {"prompt": "<|im_start|>user\n6 * 7?<|im_end|>\n<|im_start|>assistant\n"},
    {"prompt": "<|start_header_id|>user<|end_header_id|>6 * 7?"},
    {"prompt": "<s>[INST] 6 * 7? [/INST]"},
    {"prompt": "[INST] 6 * 7? [/INST]"},
    {"prompt": "<start_of_turn>user\n6 * 7?"},
    {"prompt": "### Instruction:\n6 * 7?\n\n### Response:\n"},
    {"prompt": [user("hi"), assistant("ho"), user("<|im_start|>6 * 7?")]},
    {"chosen": "It is 42.</s>"},
    {"rejected": "It is 40.<|endoftext|>\n"},
    {"rejected": "It is 40.<|eot_id|>"},
    {"chosen": "Assistant: It is 42."},
    {"chosen": "Human: 6 * 7?\n\nAssistant: It is 42."},
]
PROSE = [
    {"prompt": 'Write "User: hi" and "Assistant: hello" in French.'},
    {"prompt": "User: root\nWhat does this line of a log mean?"},
    {"prompt": "What does <|im_end|> mean in a template?"},
    {"prompt": "Which tags close a <s>text</s> in HTML?"},
    {"prompt": "The assistant: who is it?"},
    {"chosen": "It says ### Response: and then [INST], in the middle."},
    {"chosen": "A human: that is what 42 stands for."},
    {"prompt": "Describe a human"},
]


@pytest.mark.parametrize("change", MARKUP)
def test_a_text_with_a_templates_markup_is_no_turn(change):
    row = ASKED | change
    if isinstance(row["prompt"], list):
        row |= {"chosen": [assistant("a")], "rejected": [assistant("b")]}
    (reading,) = read("preference", row)
    assert reading.reason == "templated" and "strip it" in reading.detail
    answers = [{"response": row["chosen"], "score": 2}, {"response": row["rejected"], "score": 1}]
    if isinstance(row["prompt"], str):
        (reading,) = read("ultrafeedback", {"instruction": row["prompt"], "completions": answers})
        assert reading.reason == "templated"


@pytest.mark.parametrize("change", PROSE)
def test_markup_within_prose_is_prose(change):
    (reading,) = read("preference", ASKED | change)
    assert (reading.reason, reading.detail) == (None, None)


def test_answers_that_repeat_the_prompt_are_refused():
    both = {side: f"{QUESTION}\n{ASKED[side]}" for side in ("chosen", "rejected")}
    (reading,) = read("preference", ASKED | both)
    assert reading.reason == "prompt_in_answers"
    (reading,) = read("preference", ASKED | {"chosen": both["chosen"]})
    assert reading.reason is None
    greeting = {"prompt": "Good morning", "chosen": "Good morning to you", "rejected": "Good morning."}
    (reading,) = read("preference", greeting)
    assert reading.reason is None


def test_turns_as_text_are_read_if_they_are_json_and_else_refused_with_what_makes_them_turns():
    turns = [user(QUESTION), assistant("It is 42.")]
    others = [user(QUESTION), assistant("It is 40.")]
    (reading,) = read("preference", {"chosen": json.dumps(turns), "rejected": json.dumps(others)})
    assert reading.reason is None and reading.messages == [user(QUESTION)]
    (reading,) = read("preference", ASKED | {"chosen": str(turns), "rejected": str(others)})
    assert reading.reason == "turns_as_text" and "ast.literal_eval" in reading.detail
    (reading,) = read("prompts", {"messages": str(turns)})
    assert reading.reason == "turns_as_text" and "messages holds" in reading.detail
    (reading,) = read("preference", ASKED | {"chosen": json.dumps(turns)[:-2]})
    assert reading.reason == "turns_as_text" and "JSON is broken" in reading.detail
    spoken = json.dumps([{"from": "human", "value": QUESTION}])
    for name, row in (("prompts", {"prompt": spoken}), ("preference", ASKED | {"prompt": spoken})):
        (reading,) = read(name, row)
        assert reading.reason is None and reading.messages == [user(QUESTION)]
    (reading,) = read("preference", ASKED | {"chosen": '[{"name": "x"}] is a list of JSON'})
    assert reading.reason is None


def system(text):
    return {"role": "system", "content": text}


def test_a_prompt_has_one_system_turn_and_it_is_the_first():
    sides = {"chosen": [assistant("a")], "rejected": [assistant("b")]}
    same = sides | {"system": "Be kind.", "prompt": [system("Be kind."), user("q")]}
    blank = sides | {"system": " \n", "prompt": [system(""), user("q")]}
    differ = sides | {"system": "Be kind.", "prompt": [system("Be brief."), user("q")]}
    twice = sides | {"prompt": [system("Be kind."), system("Be brief."), user("q")]}
    late = sides | {"prompt": [user("p"), system("Be kind."), user("q")]}
    readings = read("preference", same, blank, differ, twice, late)
    assert readings[0].messages == [system("Be kind."), user("q")]
    assert readings[1].messages == [user("q")]
    assert [reading.reason for reading in readings[2:]] == ["two_systems"] * 3


SPELLINGS = [
    {"prompt": QUESTION, "chosen": assistant("a"), "rejected": assistant("b")},
    {"messages": [user(QUESTION)], "chosen": assistant("a"), "rejected": assistant("b")},
    {
        "prompt": [{"role": "Human", "content": QUESTION}],
        "chosen": [{"role": "Assistant", "content": "a"}],
        "rejected": [{"role": "GPT", "content": "b"}],
    },
    {
        "chosen": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": "a"}],
        "rejected": [{"from": "human", "value": QUESTION}, {"from": "bot", "value": "b"}],
    },
    {
        "prompt": QUESTION + "\n",
        "chosen": [user(QUESTION), assistant("a")],
        "rejected": [user(QUESTION), assistant("b")],
    },
    {
        "prompt": [user(QUESTION)],
        "chosen": [user(QUESTION), {"role": "model", "content": "a"}],
        "rejected": [user(QUESTION), assistant("b")],
    },
]


@pytest.mark.parametrize("row", SPELLINGS)
def test_ordinary_spellings_of_a_pair_are_read(row):
    (reading,) = read("preference", row)
    assert (reading.reason, reading.detail) == (None, None)
    assert [message["role"] for message in reading.messages] == ["user"]
    assert reading.messages[0]["content"].strip() == QUESTION
    assert [response["text"] for response in reading.responses] == ["a", "b"]
    assert reading.unread.left_out == ()


def test_a_developers_turn_is_the_system_turn_and_no_other_role_is_taken_for_one():
    sides = {"chosen": [assistant("a")], "rejected": [assistant("b")]}
    (reading,) = read("preference", sides | {"prompt": [{"role": "developer", "content": "s"}, user("q")]})
    assert reading.messages == [system("s"), user("q")]
    (reading,) = read("preference", sides | {"prompt": [{"role": "Wizard", "content": "s"}, user("q")]})
    assert reading.reason == "bad_role" and "Wizard" in reading.detail


def test_sharegpt_turns_may_be_spelled_with_role_and_content():
    row = {"conversations": [user(QUESTION)], "chosen": assistant("a"), "rejected": [assistant("b")]}
    (reading,) = read("sharegpt", row)
    assert reading.messages == [user(QUESTION)] and reading.reason is None
    (reading,) = read("sharegpt", row | {"conversations": [{"role": "observation", "content": "x"}]})
    assert reading.reason == "bad_role" and re.search("observation", reading.detail)


def test_messages_beside_a_prompt_or_strings_are_not_taken_for_the_prompt():
    sides = {"chosen": assistant("a"), "rejected": assistant("b")}
    (reading,) = read("preference", sides | {"prompt": "p", "messages": [user("q")]})
    assert reading.reason == "two_prompts"
    for again in ([user("p")], [user("p"), assistant("a")]):
        (reading,) = read("preference", sides | {"prompt": "p", "messages": again})
        assert reading.messages == [user("p")] and reading.reason is None
    (reading,) = read("preference", sides | {"messages": "q"})
    assert reading.reason == "missing_or_mistyped" and "messages is a string" in reading.detail
    (reading,) = read("preference", sides | {"messages": [user("q"), assistant("x")]})
    assert reading.reason == "last_turn"


def test_a_guessed_prompt_is_said_once(tmp_path, caplog):
    lines = [json.dumps(SHARED_BEGINNING | {"id": number}) for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    config = Prompts(source=[str(tmp_path / "rows.jsonl")])
    facts = prompts.facts(config, planning({"prompts": config}, "prompts"))
    caplog.set_level("INFO", logger="prefmill")
    scanned = list(prompts.scan(config, facts))
    assert sum(len(batch.shards) for batch in scanned) == 3
    said = [record.getMessage() for record in caplog.records if "begin with" in record.getMessage()]
    assert said == ["the prompt is what chosen and rejected begin with, such as 'Seven times six is'"]


@pytest.mark.parametrize("name", ["topic", "question"])
def test_an_input_without_a_prompt_is_refused_by_what_could_be_it(name):
    given = [Row("f", 1, json.dumps(SHARED_BEGINNING | {name: QUESTION}))]
    with pytest.raises(UserError, match=f"rename the column {name} to prompt"):
        recognise(given)


def test_sharegpt_rows_are_of_one_format_only():
    turns = [{"from": "human", "value": QUESTION}]
    sides = {"chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}
    row = sides | {"conversations": turns}
    assert recognise([Row("f", 1, json.dumps(row))]).stem == "sharegpt"
    with pytest.raises(UserError, match=r"in the format sharegpt.*prompt"):
        recognise([Row("f", 1, json.dumps(row | {"prompt": QUESTION}))])
