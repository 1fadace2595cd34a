"""What is kept of the input's rows goes along unread: from a row to its prompt, from there to the pairs."""

import json

import pyarrow.parquet as pq
import pytest

from engine import sql
from engine.commands.precompute import precompute
from engine.formats import Format
from engine.mapping import mapping_facts
from engine.raw import Row, rows
from engine.stages import prompts
from engine.views import views
from schemas.errors import UserError
from schemas.extensions import included
from schemas.recipe import load
from schemas.sections import Prompts
from schemas.store import open_store
from tests.conftest import settings
from tests.engine.planned import planning

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


def read(name, *values, **of_prompts):
    """The readings of some rows by a format, under settings of [prompts]."""
    given = [Row("f", line, json.dumps(value)) for line, value in enumerate(values, 1)]
    return Format.of(included("sql", name, ".sql"), Prompts(**of_prompts)).read(given)


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (("id", "score_chosen"), {"score_chosen": 9.5, "id": 10**20}),
        (("info.url", "absent"), {"info.url": "x"}),
        (("prompt", "info"), {"info": {"url": "x", "tags": None}, "prompt": "q"}),
    ],
)
def test_named_columns_are_kept_as_they_are_and_count_as_read(names, kept):
    row = {"info": {"url": "x", "tags": None}, "score_chosen": 9.5, "id": 10**20} | PAIR
    others = [name for name in ("score_chosen", "info", "id") if name not in names]
    (reading,) = read("preference", row, metadata=names, ignore=tuple(others))
    assert reading.reason is None and json.loads(reading.metadata) == kept
    assert list(json.loads(reading.metadata)) == list(kept), "in the order of the row"
    assert reading.unread.refused == () and reading.unread.left_out == ()


def test_a_star_keeps_what_is_not_read_and_still_refuses_what_may_change_the_meaning():
    (reading,) = read("preference", PAIR | {"id": 1, "lang": "de", "empty": None}, metadata=("*",))
    assert json.loads(reading.metadata) == {"id": 1, "lang": "de", "empty": None}
    (reading,) = read("preference", PAIR | {"id": 1, "margin": 2}, metadata=("*",))
    assert reading.reason == "unread_column" and "margin" in reading.detail
    (reading,) = read("preference", PAIR | {"id": 1, "margin": 2}, metadata=("*",), ignore=("margin",))
    assert json.loads(reading.metadata) == {"id": 1}


def test_a_star_keeps_nothing_of_what_is_moved_but_what_is_beside_it():
    row = {"question": {"id": 3, "text": "q"}, "good": "a", "rejected": "b"}
    columns = {"prompt": "question.text", "chosen": "good"}
    (reading,) = read("preference", row, columns=columns, metadata=("*",))
    assert reading.reason is None and json.loads(reading.metadata) == {"question": {"id": 3}}


def test_a_column_that_is_named_makes_no_row_another_format():
    (reading,) = read("prompts", {"prompt": "q", "response": "old"}, metadata=("response",))
    assert reading.reason is None and json.loads(reading.metadata) == {"response": "old"}
    sides = {"chosen": "The sky is blue", "rejected": "The sky is green"}
    (reading,) = read("preference", sides | {"question": "Which colour?"}, metadata=("question",))
    assert reading.reason is None and reading.prompt_is_guessed


def test_a_number_that_is_none_is_kept_as_null(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "q", "loss": NaN, "more": {"x": [Infinity, 1]}}\n')
    reader = Format.of(included("sql", "prompts", ".sql"), Prompts(metadata=("loss", "more")))
    (reading,) = reader.read(list(rows({"x": path}, 1000)))
    assert reading.reason is None
    assert json.loads(reading.metadata) == {"loss": None, "more": {"x": [None, 1]}}


def test_a_name_that_no_row_has_is_refused_and_one_that_is_rare_is_not(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [json.dumps(PAIR | {"ident": 1})] * 150
    path.write_text("\n".join([*lines, json.dumps(PAIR | {"rare": 1})]))

    def facts_of(*names):
        config = Prompts(source=(str(path),), metadata=names)
        return prompts.facts(config, planning({"prompts": config}, "prompts"))

    assert facts_of("rare", "ident")["metadata"] == ["ident", "rare"]
    with pytest.raises(UserError, match=r'no row has "idents": its columns are .*ident.*did you mean'):
        facts_of("idents")


def test_a_format_that_does_not_say_what_it_reads_needs_names(tmp_path):
    own = tmp_path / "own.sql"
    own.write_text(
        "select n, [{role: 'user', content: text_at(row, '$.q')}] as messages, [] as responses, "
        "null as problem from raw"
    )
    path = tmp_path / "x.jsonl"
    path.write_text('{"q": "why?", "id": 3}\n')
    for names, expected in ((("id",), None), (("*",), "-- reads:")):
        config = Prompts(source=(str(path),), format=str(own), metadata=names)
        if expected is None:
            prompts.facts(config, planning({"prompts": config}, "prompts"))
            (reading,) = Format.of(own, config).read(list(rows({"x": path}, 1000)))
            assert reading.metadata == '{"id": 3}'
        else:
            with pytest.raises(UserError, match=expected):
                prompts.facts(config, planning({"prompts": config}, "prompts"))


def test_what_is_not_set_is_no_fact():
    assert mapping_facts(Prompts()) == {}
    config = Prompts(columns={"prompt": "q"}, roles={"Bot": "assistant"}, metadata=("b", "a", "b"))
    expected = {"columns": {"prompt": "q"}, "roles": {"bot": "assistant"}, "metadata": ["a", "b"]}
    assert mapping_facts(config) == expected


RECIPE = """
[model]
[prompts]
shards = 2
metadata = ["source", "id"]
[given]
[generate]
n = 2
max_tokens = 5
[logprobs]
contexts = ["plain", "quality"]
[prompt_gain]
[pairs]
unfinished = "keep"
"""
# Two rows of one prompt, a duplicate but for its metadata, and a row without one of the columns.
ROWS = [
    {"id": 1, "source": "web", "prompt": "2 and 2?", "chosen": "4", "rejected": "5"},
    {"id": 2, "source": "book", "prompt": "2 and 2?", "chosen": "It is 4.", "rejected": "6"},
    {"id": 3, "source": "web", "prompt": "2 and 2?", "chosen": "4", "rejected": "5"},
    {"id": 4, "prompt": "3 and 3?", "chosen": "6", "rejected": "7"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_path):
    folder = tmp_path_factory.mktemp("metadata")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = settings(prompts__source=folder / "rows.jsonl", model__name=model_path)
    precompute(folder / "run", load(folder / "recipe.toml", words[1::2]), 1)
    (folder / "alone.toml").write_text(RECIPE.replace("[given]", "").replace("n = 2", "n = 4"))
    best = settings(pairs__choose="best_vs_worst", pairs__scorer="prompt_gain")
    alone = [*words, *best, *settings(prompts__ignore='["chosen", "rejected"]')]
    precompute(folder / "alone", load(folder / "alone.toml", alone[1::2]), 1)
    without = [*words, *settings(prompts__metadata="[]")]
    precompute(folder / "without", load(folder / "recipe.toml", without[1::2]), 1)
    return folder


def asked(run, query):
    con = sql.closed(views(open_store(run)))
    return sql.query(con, query, 60).read_all().to_pylist()


def test_a_pair_has_the_metadata_of_the_row_that_it_is_from(run):
    found = asked(run / "run", "select chosen, metadata from pairs order by chosen")
    of_chosen = {row["chosen"]: json.loads(row["metadata"]) for row in found}
    assert of_chosen == {
        "4": {"id": 1, "source": "web"},
        "It is 4.": {"id": 2, "source": "book"},
        "6": {"id": 4},
    }
    counted = asked(
        run / "run", "select metadata->>'source' as s, count(*) as n from pairs group by s order by s"
    )
    assert counted == [{"s": "book", "n": 1}, {"s": "web", "n": 1}, {"s": None, "n": 1}]


def test_a_prompt_has_an_entry_for_each_row_that_is_no_duplicate(run):
    found = asked(run / "run", "select metadata, given from prompts where prompt = '2 and 2?'")
    entries = json.loads(found[0]["metadata"])
    assert [entry["row"]["id"] for entry in entries] == [1, 2]
    compared = [answer["comparison_id"] for answer in found[0]["given"]]
    assert [entry["comparison_id"] for entry in entries] == list(dict.fromkeys(compared))


def test_a_pair_with_what_was_generated_has_that_of_the_prompts_first_row(run):
    found = asked(run / "alone", "select prompt, metadata from pairs")
    assert found
    for row in found:
        assert json.loads(row["metadata"])["id"] == {"2 and 2?": 1, "3 and 3?": 4}[row["prompt"]]


def test_without_it_the_files_have_no_such_column_and_the_same_pairs(run):
    for table in ("prompts", "pairs"):
        for name, is_there in (("run", True), ("without", False)):
            files = list((run / name).glob(f"*/*.{table}.parquet"))
            found = [("metadata" in pq.read_schema(file).names) for file in files]
            assert found and set(found) == {is_there}
    columns = "pair_id, prompt_ids, chosen_ids, rejected_ids, ref_chosen_token_logps, chosen_scores"
    query = f"select {columns} from pairs order by pair_id"
    assert asked(run / "run", query) == asked(run / "without", query)


def test_a_recipe_with_a_table_is_read_from_the_command_line(tmp_path):
    from schemas.recipe import dump, load

    path = tmp_path / "r.toml"
    path.write_text("[model]\n[prompts]\n")
    words = [
        "prompts.columns.prompt=question",
        'prompts.columns.reference=["a","b"]',
        "prompts.roles.Bot=user",
    ]
    config = load(path, words).section("prompts")
    assert config.columns == {"prompt": "question", "reference": ["a", "b"]} and config.roles == {
        "Bot": "user"
    }
    path.write_bytes(dump(load(path, words)))
    assert load(path).section("prompts") == config
