"""What is said of columns that are not read: which may matter, which could be the prompt, what to set."""

import json

import pytest

from engine.column_names import changes_meaning
from engine.formats import Format
from engine.json_looks import objects_look
from engine.raw import Row
from engine.recognise import format_of
from schemas import row_checks
from schemas.errors import UserError
from schemas.extensions import included
from schemas.sections import Prompts

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
SIDES = {"chosen": "The sky is blue", "rejected": "The sky is green"}
TURNS = [{"role": "user", "content": "What colour?"}]
SHAREGPT = [{"from": "human", "value": "What colour?"}]


def read(name, row, **settings):
    form = Format.of(included("sql", name, ".sql"), Prompts(**settings))
    (reading,) = form.read([Row("f", 1, json.dumps(row))])
    return reading


def auto(tmp_path, row, **settings):
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(row)}\n" * 3)
    return format_of({"x.jsonl": path}, Prompts(**settings)).stem


@pytest.mark.parametrize("name", ["comment", "source", "chosen_model", "id", "列"])
@pytest.mark.parametrize("value", [TURNS, SHAREGPT, [TURNS, TURNS], json.dumps(TURNS)])
def test_a_dialogue_that_is_not_read_is_refused_whatever_its_name(name, value):
    reading = read("preference", PAIR | {name: value})
    assert (reading.reason, reading.unread.refused) == ("unread_column", (name,))
    assert read("preference", PAIR | {name: value}, ignore=(name,)).reason is None
    assert read("preference", PAIR | {name: value}, metadata=(name,)).reason is None


def test_steps_and_turns_that_are_written_out_matter_and_their_number_does_not():
    names = "trajectory sys persona background ctx docs facts post turns initial_reason_steps"
    for name in names.split():
        assert changes_meaning(name, "Seven by six") and changes_meaning(name, ["Seven by six"])
    assert changes_meaning("steps", "First, add.") and changes_meaning("step", "First, add.")
    for name, value in (("step", 7), ("step", "sft"), ("steps", 7), ("turns", 3), ("num_turns", 3)):
        assert not changes_meaning(name, value)
    for name in ("global_step", "n_steps", "post_id", "doc_source"):
        assert not changes_meaning(name, "7")


def test_the_likeliest_prompt_is_named_first():
    row = SIDES | {"title": "Sky", "body": "Which colour does it have?", "topic": "The sky above us, at noon"}
    reading = read("preference", row | {"task": "Coding"})
    assert "could be in body, title;" in reading.detail and 'prompt = "body"' in reading.detail
    assert "ignore" not in reading.detail
    reading = read("preference", row | {"task": "Writing of longer texts about colours", "asked": TURNS})
    assert "could be in asked, body, title, task;" in reading.detail
    assert 'rename the column asked to prompt: [prompts.columns] prompt = "asked"' in reading.detail
    assert read("preference", SIDES | {"task": "Coding"}).reason is None


@pytest.mark.parametrize("row", [SIDES, SIDES | {"rejected": ["x", "y"]}])
def test_turns_from_and_value_are_to_be_called_conversations(row):
    name = "preference" if row == SIDES else "several_rejected"
    reading = read(name, row | {"trajectory": SHAREGPT, "question": "Which of all the colours is it?"})
    assert reading.reason == "no_prompt"
    assert '[prompts.columns] conversations = "trajectory"' in reading.detail


def test_a_prompt_made_of_turns_from_and_value_is_refused_by_what_to_set(tmp_path):
    row = SIDES | {"trajectory": SHAREGPT}
    with pytest.raises(UserError, match=r"an object {from, value}.*conversations = \"trajectory\""):
        auto(tmp_path, row, columns={"prompt": "trajectory"})
    assert auto(tmp_path, row, columns={"conversations": "trajectory"}) == "sharegpt"
    turns = {"role": "from", "content": "value"}
    assert read("preference", row, columns={"prompt": "trajectory"}, turns=turns).reason is None


def test_of_several_formats_the_columns_are_named_that_make_the_difference(tmp_path):
    row = PAIR | {"conversations": SHAREGPT}
    with pytest.raises(UserError) as error:
        auto(tmp_path, row)
    said = str(error.value)
    assert "preference 3 without conversations, sharegpt 3 without prompt;" in said
    for ignored, form in (("prompt", "sharegpt"), ("conversations", "preference")):
        assert f'for {form} prompts.ignore = ["{ignored}"]' in said
        assert auto(tmp_path, row, ignore=(ignored,)) == form
    with pytest.raises(UserError, match="no format reads any of the first 3 rows") as error:
        auto(tmp_path, {"text": "x"})
    assert " 0" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "mapping"),
    [
        ({"system_prompt": "Be kind."}, {"system": "system_prompt"}),
        ({"systemMessage": "Be kind."}, {"system": "systemMessage"}),
        ({"score_w": 2, "score_l": 1}, {"score_chosen": "score_w", "score_rejected": "score_l"}),
        ({"rm_score_chosen": "0.5"}, {"score_chosen": "rm_score_chosen"}),
        ({"rejected_reward_score": 1}, {"score_rejected": "rejected_reward_score"}),
        ({"gold_answer": "a"}, {"reference": "gold_answer"}),
    ],
)
def test_another_spelling_of_a_column_that_is_read_is_mapped_first(row, mapping):
    detail = read("preference", PAIR | row).detail
    for ours, theirs in mapping.items():
        assert f'{ours} = "{theirs}"' in detail
    assert detail.index("[prompts.columns]") < detail.index("prompts.ignore")
    assert read("preference", PAIR | row, columns=mapping).reason is None


def test_no_mapping_is_offered_for_what_the_row_has_or_what_is_something_else():
    for more in (
        {"system": "Be brief.", "system_prompt": "Be kind."},
        {"chosen_rating": 3, "score_w": 2},
        {"score_w": "good"},
        {"system_prompt": ["Be kind."]},
    ):
        assert "[prompts.columns]" not in read("preference", PAIR | more).detail
    detail = read("preference", PAIR | {"chat_template_kwargs": {"enable_thinking": False}}).detail
    assert "[model.template_arguments]" in detail


@pytest.mark.parametrize("name", ["chosen", "rejected", "response", "responses", "completions"])
def test_answers_are_never_joined(name):
    assert "joined" in row_checks.columns({name: ["a", "b"]})
    assert row_checks.columns({name: "a", "prompt": ["a", "b"]}) is None


@pytest.mark.parametrize("size", [1, 40_000])
def test_a_single_row_of_lists_is_no_object_of_rows(size):
    turn = {"role": "assistant", "content": "x" * size, "weight": 1}
    asked = [{"weight": 1, "role": "user", "content": "q"}]
    answers = [{"model": "m", "response": "x" * size}] * 2
    for row in (
        {"prompt": asked, "chosen": [turn], "rejected": [turn]},
        {"chosen": [{"weight": 0, **turn}], "rejected": [turn]},
        {"instruction": "q", "completions": answers},
    ):
        text = json.dumps(row)[: 1 << 16]
        assert "holds the rows" not in (objects_look(text, size == 1) or "")
    held = json.dumps({"data": [PAIR | {"chosen": "x" * size}] * 3})[: 1 << 16]
    assert "rows under 'data'" in objects_look(held, size == 1)


def test_alpaca_of_ms_swift(tmp_path):
    row = {"instruction": "Say it", "input": "loud", "output": "Yes!", "rejected_response": "no"}
    assert auto(tmp_path, row) == "alpaca"
    reading = read("alpaca", row)
    assert reading.messages == [{"role": "user", "content": "Say it\nloud"}]
    assert [(one["text"], one["score"]) for one in reading.responses] == [("Yes!", 1.0), ("no", 0.0)]
    for change in ({"output": ["a", "b"]}, {"chosen": "a", "rejected": "b"}, {"rejected_response": ["a"]}):
        assert read("alpaca", row | change).reason == "missing_or_mistyped"
    older = {"instruction": "q", "chosen": "a", "rejected": "b"}
    for empty in (None, "", "None", []):
        assert read("alpaca", older | {"rejected_response": empty}).reason is None


def test_dialogues_that_differ_are_refused_by_what_to_do():
    def said(asked, answer):
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]

    differ = {"chosen": said("q", "a"), "rejected": said("p", "b")}
    assert "only the last turn may differ" in read("preference", differ).detail
    same = {"chosen": said("q", "a"), "rejected": said("q", "b")}
    for name, value in (("prompt", "other"), ("messages", [{"role": "user", "content": "other"}])):
        reading = read("preference", same | {name: value})
        assert reading.reason == "prompts_differ" and f'prompts.ignore = ["{name}"]' in reading.detail
        assert read("preference", same | {name: value}, ignore=(name,)).reason is None
