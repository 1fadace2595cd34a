"""The row shapes of other tools: each is read by one format, as its tool's documentation means it."""

import functools
import json

import pyarrow.dataset as ds
import pytest

from engine import side_ratings
from engine.attempts import attempt
from engine.commands.precompute import precompute
from engine.formats import Format, shipped
from engine.raw import Row
from engine.recognise import recognise
from engine.views import views
from schemas.extensions import included
from schemas.recipe import load
from schemas.sections import Prompts
from schemas.store import open_store
from tests.conftest import settings

RATINGS = [f"score_{side}" for side in side_ratings.SIDES]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def gpt(text):
    return {"from": "gpt", "value": text}


def asked(number):
    return f"How much is {number} + 1?"


def better(number):
    return f"It is {number + 1}."


# Shape -> (format, row of a number, the pairs of the row by their rejected texts).
BAD, WORSE = "It is 0.", "I will not."
SHAPES = {
    "LLaMA-Factory": (
        "alpaca",
        lambda n: {"instruction": "Add.", "input": f"{n} 1", "chosen": better(n), "rejected": BAD},
        [BAD],
    ),
    "LLaMA-Factory, output": (
        "alpaca",
        lambda n: {"instruction": asked(n), "input": "", "output": [better(n), BAD]},
        [BAD],
    ),
    "several rejected": (
        "several_rejected",
        lambda n: {"prompt": asked(n), "chosen": better(n), "rejected": [BAD, WORSE]},
        [BAD, WORSE],
    ),
    "several rejected dialogues": (
        "several_rejected",
        lambda n: {
            "chosen": [user(asked(n)), assistant(better(n))],
            "rejected": [[user(asked(n)), assistant(BAD)], [user(asked(n)), assistant(WORSE)]],
        },
        [BAD, WORSE],
    ),
    "ms-swift": (
        "ms_swift",
        lambda n: {"messages": [user(asked(n)), assistant(better(n))], "rejected_response": BAD},
        [BAD],
    ),
    "ms-swift, several": (
        "ms_swift",
        lambda n: {"messages": [user(asked(n)), assistant(better(n))], "rejected_response": [BAD, WORSE]},
        [BAD, WORSE],
    ),
    "ms-swift, dialogues": (
        "ms_swift",
        lambda n: {
            "messages": [user(asked(n)), assistant(better(n))],
            "rejected_messages": [user(asked(n)), assistant(BAD)],
        },
        [BAD],
    ),
    "ms-swift, query": (
        "query_response",
        lambda n: {"query": asked(n), "response": better(n), "rejected_response": BAD, "history": []},
        [BAD],
    ),
    "rewards": (
        "scored_lists",
        lambda n: {"prompt": asked(n), "responses": [BAD, better(n)], "rewards": [-0.5, 1.5]},
        [BAD],
    ),
    "distilabel": (
        "scored_lists",
        lambda n: {
            "instruction": asked(n),
            "generations": [better(n), BAD, WORSE],
            "ratings": [5, 1, None],
            "generation_model": ["x", "y", "z"],
        },
        [BAD],
    ),
    "SimPO": (
        "scored_lists",
        lambda n: {
            "prompt_id": str(n),
            "prompt": asked(n),
            "all_generated_responses": [WORSE, better(n), BAD],
            "all_rm_scores": [0.3, 0.9, 0.1],
            "chosen": [user(asked(n)), assistant(better(n))],
            "rejected": [user(asked(n)), assistant(BAD)],
        },
        [BAD],
    ),
    "objects": (
        "scored_objects",
        lambda n: {
            "prompt": [user(asked(n))],
            "responses": [{"text": BAD, "reward": 0.1}, {"text": better(n), "reward": 0.9}],
        },
        [BAD],
    ),
    "OpenAI": (
        "openai",
        lambda n: {
            "input": {"messages": [user(asked(n))]},
            "preferred_output": [assistant(better(n))],
            "non_preferred_output": [assistant(BAD)],
        },
        [BAD],
    ),
    "HelpSteer3": (
        "helpsteer",
        lambda n: {
            "context": [user(asked(n))],
            "response1": BAD,
            "response2": better(n),
            "overall_preference": 2,
        },
        [BAD],
    ),
    "HelpSteer2": (
        "helpsteer",
        lambda n: {
            "prompt": asked(n),
            "response_1": better(n),
            "response_2": BAD,
            "preference_strength": -1,
        },
        [BAD],
    ),
    "Nectar": (
        "nectar",
        lambda n: {
            "prompt": f"\n\nHuman: {asked(n)}\n\nAssistant: ",
            "answers": [{"answer": BAD, "rank": 2.0}, {"answer": better(n), "rank": 1.0}],
            "num_responses": 2,
        },
        [BAD],
    ),
    "SHP": (
        "shp",
        lambda n: {
            "history": asked(n),
            "human_ref_A": BAD,
            "human_ref_B": better(n),
            "labels": 0,
            "score_A": 3,
            "score_B": 12,
        },
        [BAD],
    ),
    "binarized": (
        "preference",
        lambda n: {
            "prompt": asked(n),
            "prompt_id": str(n),
            "chosen": [user(asked(n)), assistant(better(n))],
            "rejected": [user(asked(n)), assistant(BAD)],
            "messages": [user(asked(n)), assistant(better(n))],
            "score_chosen": 8.5,
            "score_rejected": 2,
        },
        [BAD],
    ),
    "rated ShareGPT": (
        "sharegpt",
        lambda n: {
            "conversations": [{"from": "human", "value": asked(n)}],
            "chosen": gpt(better(n)),
            "rejected": gpt(BAD),
            "chosen_score": 2,
            "rejected_score": 1,
        },
        [BAD],
    ),
}


def rows_of(shape, count=10):
    name, row, _ = SHAPES[shape]
    return name, [Row("f", n, json.dumps(row(n))) for n in range(1, count + 1)]


@functools.cache
def every_format():
    return [Format(path) for path in shipped()]


def read(name, *values, **settings):
    given = [Row("f", line, json.dumps(value)) for line, value in enumerate(values, 1)]
    return Format(included("sql", name, ".sql"), **settings).read(given)


@pytest.mark.parametrize("shape", SHAPES)
def test_auto_tells_a_shape_from_all_others(shape):
    name, rows = rows_of(shape)
    assert recognise(rows).stem == name
    readers = [path.stem for path in shipped() if attempt(path, rows, Prompts()).of_its_form]
    assert readers == [name]
    asked_every = []
    for each in every_format():
        if any(reading.is_its_format for reading in each.read(rows)):
            asked_every.append(each.name)
    assert asked_every == [name]  # also without the line `-- marked by:`


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_gives_its_pairs(shape, tmp_path, model_path):
    _, row, rejected = SHAPES[shape]
    lines = [json.dumps(row(number)) for number in range(1, 11)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    (tmp_path / "recipe.toml").write_text(
        "[model]\n[prompts]\n[given]\n[logprobs]\n[pairs]\ntest_share = 0.0\n"
    )
    values = settings(prompts__source=tmp_path / "rows.jsonl", model__name=model_path)
    precompute(tmp_path / "run", load(tmp_path / "recipe.toml", values[1::2]), 1)
    tables = views(open_store(tmp_path / "run"))
    assert tables["rejects"].count_rows() == 0
    pairs = tables["pairs"].to_table(columns=["prompt", "chosen", "rejected"]).to_pylist()
    expected = [(better(number), text) for number in range(1, 11) for text in rejected]
    assert sorted((pair["chosen"], pair["rejected"]) for pair in pairs) == sorted(expected)
    for pair in pairs:
        number = int(pair["chosen"].split()[-1][:-1]) - 1
        assert pair["prompt"] in (asked(number), f"Add.\n{number} 1")


def test_two_counts_of_one_row_are_two_comparisons():
    (reading,) = read("several_rejected", SHAPES["several rejected"][1](1))
    assert [(one["text"], one["score"], one["comparison"]) for one in reading.responses] == [
        (better(1), 1.0, 0),
        (BAD, 0.0, 0),
        (better(1), 1.0, 1),
        (WORSE, 0.0, 1),
    ]
    (alone,) = read("several_rejected", SHAPES["several rejected"][1](1) | {"rejected": [BAD]})
    assert [one.keys() for one in alone.responses] == [{"text", "score"}] * 2


REFUSED = [
    ("several_rejected", {"prompt": "q", "chosen": ["a", "b"], "rejected": ["c", "d"]}, "several_chosen"),
    ("several_rejected", {"prompt": "q", "chosen": "a", "rejected": ["b", "a"]}, "same_responses"),
    ("several_rejected", {"prompt": "q", "chosen": "a", "rejected": []}, "empty_response"),
    ("several_rejected", {"chosen": "a", "rejected": ["b", "c"]}, "no_prompt"),
    (
        "several_rejected",
        {"prompt": "q", "chosen": "a", "rejected": [[user("other"), assistant("b")]]},
        "prompts_differ",
    ),
    ("ms_swift", {"messages": [user("q")], "rejected_response": "b"}, "no_response"),
    (
        "ms_swift",
        {"messages": [user("q"), assistant("a")], "rejected_messages": [user("p"), assistant("b")]},
        "prompts_differ",
    ),
    ("scored_lists", {"prompt": "q", "responses": ["a", "b"], "rewards": [1, 2, 3]}, "lengths_differ"),
    ("scored_lists", {"prompt": "q", "responses": ["a", "b"], "rewards": [1, "x"]}, "bad_rating"),
    (
        "scored_lists",
        {"prompt": "q", "responses": ["a", "b"], "rewards": [1, 2], "scores": [1, 2]},
        "two_lists",
    ),
    (
        "scored_lists",
        {"prompt": "q", "responses": ["a", "b"], "rewards": [1, 2], "chosen": "a", "rejected": "c"},
        "contradiction",
    ),
    (
        "scored_lists",
        {
            "prompt": "q",
            "responses": ["a", "b"],
            "rewards": [1, 2],
            "chosen": "a",
            "rejected": "b",
            "score_chosen": 2,
        },
        "two_ratings",
    ),
    ("alpaca", {"instruction": "q", "output": ["a", "b", "c"]}, "missing_or_mistyped"),
    ("alpaca", {"instruction": "q", "history": ["a"], "chosen": "a", "rejected": "b"}, "missing_or_mistyped"),
    (
        "openai",
        {
            "input": {"messages": [user("q") | {"weight": 0}]},
            "preferred_output": [assistant("a")],
            "non_preferred_output": [assistant("b")],
        },
        "unread_key",
    ),
]


@pytest.mark.parametrize(("name", "row", "reason"), REFUSED)
def test_what_contradicts_itself_is_refused(name, row, reason):
    (reading,) = read(name, row)
    assert reading.reason == reason and reading.detail


def test_lists_of_different_length_are_refused_by_both_lengths():
    (reading,) = read("scored_lists", {"prompt": "q", "generations": ["a", "b"], "ratings": [1]})
    assert "generations has 2 values and ratings has 1" in reading.detail


SIDES = {"prompt": "q", "chosen": "a", "rejected": "b"}
NAMES = ["score_{}", "{}_score", "rating_{}", "{}_rating", "{}-rating", "reward_{}", "{}_reward"]


@pytest.mark.parametrize("form", NAMES)
def test_ratings_beside_pairs_are_read_under_every_name(form):
    numbers = {form.format("chosen"): 3, form.format("rejected"): "4.5"}
    (reading,) = read("preference", SIDES | numbers)
    assert [(one["score"], one["rating"]) for one in reading.responses] == [(1.0, 3.0), (0.0, 4.5)]
    for name in numbers:
        assert name in included("sql", "macros", ".sql").read_text()
        assert name not in reading.unread.left_out


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"score_chosen": 1, "chosen_score": 2}, "two_ratings"),
        ({"score_chosen": [1, 2]}, "bad_rating"),
        ({"chosen_rating": {"help": 1}}, "bad_rating"),
        ({"chosen_rating": "good"}, "bad_rating"),
        ({"score_chosen": 1, "chosen_score": 1.0, "rejected_score": None}, None),
    ],
)
def test_ratings_that_cannot_be_used_are_refused(more, reason):
    (reading,) = read("preference", SIDES | more)
    assert reading.reason == reason


def test_ratings_are_scores_of_their_own_and_do_not_change_the_pair(tmp_path, model_path, capsys):
    rows = []
    for number, (chosen, rejected) in enumerate(((5, 2), (3, 3), (1, 4), (2, None))):
        numbers = {"score_chosen": chosen, "score_rejected": rejected}
        rows.append(
            json.dumps({"prompt": asked(number), "chosen": better(number), "rejected": WORSE} | numbers)
        )
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "recipe.toml").write_text(
        "[model]\n[prompts]\n[given]\n[logprobs]\n[pairs]\ntest_share = 0.0\n"
    )
    values = settings(prompts__source=tmp_path / "rows.jsonl", model__name=model_path)
    precompute(tmp_path / "run", load(tmp_path / "recipe.toml", values[1::2]), 1)
    assert "ratings tie 1, ratings contradict 1" in capsys.readouterr().out
    pairs = views(open_store(tmp_path / "run"))["pairs"].to_table().to_pylist()
    assert sorted(dict(pair["chosen_scores"])["given_rating"] for pair in pairs) == [1, 2, 3, 5]
    assert all(dict(pair["chosen_scores"])["given"] == 1 for pair in pairs)
    assert sum("given_rating" in dict(pair["rejected_scores"]) for pair in pairs) == 3


def test_files_without_ratings_have_no_such_column(made_run):
    for path in made_run.glob("prompts-*/*.prompts.parquet"):
        assert "ratings" not in ds.dataset(path).schema.names


def test_a_pair_beside_scored_lists_is_the_pair_and_the_numbers_are_ratings():
    """As the peers' own loaders train it, whatever the lists say of it."""
    row = {"prompt": "q", "generations": ["a", "b", "c", "d"], "ratings": [5, 4, None, 1]}
    (alone,) = read("scored_lists", row)
    assert [one["score"] for one in alone.responses] == [5.0, 4.0, None, 1.0]
    assert not any("rating" in one for one in alone.responses)
    (beside,) = read("scored_lists", row | {"chosen": "b", "rejected": "a"})
    assert [one["score"] for one in beside.responses] == [0.0, 1.0, None, None]
    assert [one.get("rating") for one in beside.responses] == [5.0, 4.0, None, 1.0]
    (repeated,) = read(
        "scored_lists", row | {"chosen": "a", "rejected": "b", "chosen_rating": 5, "rejected_rating": 4}
    )
    assert repeated.reason is None and repeated.responses[0]["rating"] == 5.0


def test_a_pair_has_the_ratings_and_the_metadata_of_its_own_row(tmp_path, model_path):
    """Also where the same two texts meet in other rows, the other way round."""
    rows = [
        ("ann", "a", "b", 9, 3),
        ("bob", "b", "a", 5, 4),
        ("cid", "a", "c", 7, 2),
        ("dan", "c", "a", 6, 5),
    ]
    lines = []
    for who, chosen, rejected, better_by, worse_by in rows:
        texts = {"prompt": "q", "chosen": f"It is {chosen}.", "rejected": f"It is {rejected}."}
        lines.append(json.dumps(texts | {"who": who, "score_chosen": better_by, "score_rejected": worse_by}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    (tmp_path / "recipe.toml").write_text(
        '[model]\n[prompts]\nmetadata = "who"\n[given]\n[logprobs]\n[pairs]\ntest_share = 0.0\n'
    )
    values = settings(prompts__source=tmp_path / "rows.jsonl", model__name=model_path)
    precompute(tmp_path / "run", load(tmp_path / "recipe.toml", values[1::2]), 1)
    pairs = views(open_store(tmp_path / "run"))["pairs"].to_table().to_pylist()
    found = set()
    for pair in pairs:
        ratings = [dict(pair[f"{side}_scores"])["given_rating"] for side in ("chosen", "rejected")]
        who = json.loads(pair["metadata"])["who"]
        found.add((who, pair["chosen"][6], pair["rejected"][6], *ratings))
    assert found == set(rows)
