"""What a row's values cost it: names that stand twice, depth, odd names, NaN, words that say nothing."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.formats import Format
from engine.raw import Row, rows
from engine.row_values import DEEPEST, is_too_deep, name_twice
from schemas.errors import UserError
from schemas.extensions import included

ASKED = {"prompt": "q", "chosen": "a", "rejected": "b"}


def read_text(name, *texts, **settings):
    given = [Row("f", line, text) for line, text in enumerate(texts, 1)]
    return Format(included("sql", name, ".sql"), **settings).read(given)


def read(name, *values, **settings):
    return read_text(name, *map(json.dumps, values), **settings)


def read_file(tmp_path, name, *lines):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    return Format(included("sql", name, ".sql")).read(list(rows({"rows.jsonl": path}, 1 << 20)))


def test_a_name_that_stands_twice_costs_its_row():
    good = json.dumps(ASKED)
    twice = '{"prompt": "q", "chosen": "a", "rejected": "b", "chosen": "c"}'
    within = '{"prompt": "q", "chosen": "a", "rejected": "b", "more": [{"x": 1, "x" : 2}]}'
    readings = read_text("preference", good, twice, within)
    assert [reading.reason for reading in readings] == [None, "duplicate_key", "duplicate_key"]
    assert '"chosen"' in readings[1].detail and '"x"' in readings[2].detail


@pytest.mark.parametrize("text", ['{"a": 1}', 'say "a": "a": 1', "\\", '\\"x": \\\\"', ""])
def test_text_that_looks_like_names_is_text(text):
    row = ASKED | {"chosen": text or "x"}
    assert name_twice(json.dumps(row), row) is None


def nested(depth):
    value = "x"
    for _ in range(depth):
        value = [value]
    return value


def test_no_depth_ends_a_run():
    readings = read("preference", *[ASKED | {"more": nested(depth)} for depth in (10, 300, 900)])
    assert [reading.reason for reading in readings] == [None, "too_deep", "too_deep"]
    assert not is_too_deep(json.dumps({"code": "[" * 500 + '"{' * 200}))
    assert is_too_deep(json.dumps(nested(DEEPEST + 1))) and not is_too_deep(json.dumps(nested(DEEPEST)))


@pytest.mark.parametrize("name", ["", '"', 'a"b', "*", "a.b", "$", "\\", "[0]"])
def test_no_columns_name_ends_a_run(name):
    solved = {
        "question": "1+1?",
        "ground_truth": "It is 2",
        "6b": {"is_correct": False, "solution": "It is 3"},
        name: {"is_correct": True, "solution": "Two"},
    }
    for file_format in ("gsm8k", "preference", "prompts", "hh", "sharegpt", "ultrafeedback"):
        (reading,) = read(file_format, solved)
        if file_format == "gsm8k" and reading.reason is None:
            texts = [response["text"] for response in reading.responses]
            assert "Two" in texts or name in reading.unread.left_out


def test_one_row_that_the_sql_cannot_take_does_not_cost_the_others(tmp_path):
    path = tmp_path / "mine.sql"
    path.write_text(
        "select n, [{role: 'user', content: text_at(row, text_at(row, '$.where'))}] as messages, "
        "[] as responses, null as problem from raw"
    )
    values = [{"where": "$.a", "a": "x"}, {"where": '$."', "a": "y"}, {"where": "$.a", "a": "z"}]
    given = [Row("f", line, json.dumps(value)) for line, value in enumerate(values, 1)]
    assert [reading.reason for reading in Format(path).read(given)] == [None, "format", None]


def test_nan_costs_what_it_is_needed_for(tmp_path):
    readings = read_file(
        tmp_path,
        "preference",
        '{"system": NaN, "reference": NaN, "split": NaN, "prompt": "q", "chosen": "a", "rejected": "b"}',
        '{"prompt": "q", "chosen": NaN, "rejected": "b"}',
        '{"prompt": [{"role": "user", "content": "q", "weight": 1, "loss_scale": NaN}], '
        '"chosen": "a", "rejected": "b", "split": Infinity}',
        '{"prompt": "q", "chosen": "a", "rejected": "b", "more": [1e999, %s]}' % ("9" * 40),
        '{"prompt": "q", "system": [NaN, "\\ud800"], "chosen": "a", "rejected": "b"}',
    )
    assert readings[0].reason is None and readings[0].reference is None
    assert readings[1].reason == "nan" and readings[1].detail.startswith("chosen is NaN")
    assert readings[2].unread.refused == ("prompt.weight",)
    assert readings[3].reason is None and readings[3].unread.left_out == ("more",)
    assert readings[4].reason in ("nan", "lone_surrogate")


def test_nan_in_a_key_that_is_not_read_costs_nothing(tmp_path):
    answers = '{"response": "a", "overall_score": %s, "critique": %s}, {"response": "b", "overall_score": 1}'
    line = '{"instruction": "q", "completions": [' + answers + "]}"
    readings = read_file(tmp_path, "ultrafeedback", line % (2, "NaN"), line % ("NaN", 1))
    assert [response["score"] for response in readings[0].responses] == [2.0, 1.0]
    assert readings[1].reason == "nan" and "overall_score is NaN" in readings[1].detail


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path):
    columns = [pa.array(["q"]), pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    table = pa.Table.from_arrays(columns, names=["prompt", "chosen", "rejected", "chosen"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(UserError, match="several columns named chosen"):
        list(rows({"x.parquet": tmp_path / "x.parquet"}, 1 << 20))


@pytest.mark.parametrize("value", ["[]", "{}", "null", "None", " none ", False])
def test_a_column_that_is_empty_as_text_is_empty(value):
    (reading,) = read("preference", ASKED | {"tools": value, "images": value})
    assert reading.reason is None and reading.unread.left_out == ()


def test_a_label_of_false_says_something():
    (reading,) = read("preference", ASKED | {"label": False})
    assert reading.unread.refused == ("label",)


def test_the_prompts_text_under_another_name_is_no_loss():
    (reading,) = read("preference", ASKED | {"question": " q\n", "instruction": "q"})
    assert reading.reason is None and reading.unread.left_out == ("question", "instruction")
    (reading,) = read("preference", ASKED | {"question": "another"})
    assert reading.unread.refused == ("question",)
    (reading,) = read("preference", ASKED | {"answer": "q"})
    assert reading.unread.refused == ("answer",)


@pytest.mark.parametrize(
    "name", ["media", "pixel_values", "attachments", "media_url", "tie", "is_tie", "prefix"]
)
def test_more_names_that_change_what_is_learned(name):
    (reading,) = read("preference", ASKED | {name: True})
    assert reading.unread.refused == (name,)


@pytest.mark.parametrize("name", ["attachments", "files", "file", "prefix", "partial"])
def test_more_keys_that_change_a_turn(name):
    turn = {"role": "user", "content": "q", name: ["x"]}
    (reading,) = read("preference", ASKED | {"prompt": [turn]})
    assert reading.unread.refused == (f"prompt.{name}",)


def test_an_object_that_is_not_read_is_looked_into():
    row = ASKED | {
        "metadata": {"score_chosen": 1, "id": "7"},
        "extra": {"lang": "en"},
        "seen": [{"image": "x"}],
    }
    (reading,) = read("preference", row)
    assert reading.unread.refused == ("metadata.score_chosen", "seen.image")
    assert reading.unread.left_out == ("extra",)
    (reading,) = read("preference", row, ignore=["metadata.score_chosen", "seen"])
    assert reading.reason is None and reading.unread.left_out == ("metadata", "extra")
    (reading,) = read("preference", row | {"chosen": 7})
    assert reading.reason == "missing_or_mistyped"


@pytest.mark.parametrize(
    ("value", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("train_sft", "train"),
        ("train-0", "train"),
        ("test_prefs", "test"),
        ("testing", "test"),
        ("test1", "test"),
        ("val", "test"),
        ("valid", "test"),
        ("validation 2", "test"),
        ("dev", "test"),
        ("evaluation", "test"),
        ("value", None),
        ("validated", None),
        ("devtools", None),
        ("testimony", None),
        ("trainer", None),
        ("evaluator", None),
    ],
)
def test_a_split_is_a_whole_word(value, split):
    (reading,) = read("preference", ASKED | {"split": value})
    assert (reading.split, reading.reason) == (split, None if split else "bad_split")
