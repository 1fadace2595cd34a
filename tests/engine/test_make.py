"""Shards, resume, fingerprints, commits: nothing is lost and nothing is stale.

A killed run ends in the bytes of one that was not killed.
"""

import json
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.commands.precompute import precompute
from engine.commands.status import status
from engine.gaps import missing
from engine.ids import shard_of
from engine.make import finish
from engine.opened import opened
from engine.plan import plan
from engine.scan import scan
from schemas.errors import NothingMade, UserError
from schemas.manifest import read_markers
from schemas.plans import read_plan
from schemas.recipe import load
from schemas.records import sealed_bytes
from schemas.sealed import unsealed
from schemas.store import open_store
from schemas.tables import TABLES
from tests.conftest import RECIPE, ROOT, command, settings, tree


def recipe_of(source, model, **more):
    return load(
        RECIPE,
        [
            word
            for word in settings(prompts__source=source, model__name=model, prompts__shards=3, **more)
            if word != "--set"
        ],
    )


def rows(run, table):
    planned, _ = read_plan(open_store(run))
    found = []
    for stage in planned:
        for marker in read_markers(open_store(run / stage.folder)):
            found += [
                (marker.shard, row)
                for file in marker.files
                if file.table == table
                for row in pq.read_table(run / stage.folder / file.name).to_pylist()
            ]
    return found


@pytest.fixture
def mixed(tmp_path):
    """21 rows: 12 good, of which one prompt thrice with other responses and one row twice more; 7 bad."""
    good = [{"prompt": f"p{n}", "chosen": f"c{n}", "rejected": f"r{n}"} for n in range(9)]
    good += [
        {"prompt": "p0", "chosen": "c0", "rejected": "x"},
        {"prompt": "p0", "chosen": "x", "rejected": "r0"},
        {"prompt": "p1", "chosen": "r1", "rejected": "z"},
    ]
    bad = [
        "{",
        '{"prompt": "x"}',
        '{"prompt": "", "chosen": "a", "rejected": "b"}',
        '{"prompt": "x", "chosen": "a", "rejected": "a"}',
        "[]",
        '{"prompt": "x", "chosen": NaN, "rejected": "b"}',
    ]
    path = tmp_path / "mixed.jsonl"
    lines = (
        [json.dumps(row).encode() for row in good]
        + [line.encode() for line in bad]
        + [b'{"prompt": "\xff"}', json.dumps(good[3]).encode(), json.dumps(good[3]).encode()]
    )
    path.write_bytes(b"\n".join(lines))
    return path


def test_what_a_killed_worker_left_is_gone_when_its_folder_is_finished(mixed, model_path, tmp_path):
    """Its command goes on with another worker, and ends: the same files as where nobody was killed."""
    recipe = recipe_of(mixed, model_path)
    precompute(tmp_path / "run", recipe, 1)
    whole = tree(tmp_path / "run")
    (folder,) = (tmp_path / "run").glob("logprobs-*")
    (folder / "manifest.json").unlink()
    (folder / f".prefmill-{32 * 'a'}.tmp").touch()
    finish(plan(tmp_path / "run", recipe), print)
    assert tree(tmp_path / "run") == whole


def test_every_input_row_is_somewhere(mixed, model_path, tmp_path, capsys):
    run = tmp_path / "run"
    precompute(run, recipe_of(mixed, model_path, prompts__format="preference"), 1)
    assert "rows in 21 = rows out 12 + rejects 7 + duplicates 2" in capsys.readouterr().out
    folder = next(run.glob("prompts-*"))
    assert {
        name: json.loads((folder / "manifest.json").read_text())["counts"][name]
        for name in ("rows_in", "rows_out", "rejects", "duplicates")
    } == {"rows_in": 21, "rows_out": 12, "rejects": 7, "duplicates": 2}
    rejects = sorted((row for _, row in rows(run, "rejects")), key=lambda row: row["line"])
    assert [(row["line"], row["reason"]) for row in rejects] == [
        (13, "bad_json"),
        (14, "missing_or_mistyped"),
        (15, "empty_prompt"),
        (16, "same_responses"),
        (17, "not_an_object"),
        (18, "nan"),
        (19, "bad_utf8"),
    ]
    assert all(row["file"] == "mixed.jsonl" and row["raw"] and row["detail"] for row in rejects)


def test_pairs_are_the_preferences_as_given(mixed, model_path, tmp_path):
    """A response chosen in one row and rejected in another of the same prompt keeps both roles.

    No pair is made that nobody stated."""
    run = tmp_path / "run"
    precompute(run, recipe_of(mixed, model_path, prompts__format="preference"), 1)
    made = {(row["prompt"], row["chosen"], row["rejected"]) for _, row in rows(run, "pairs")}
    assert made == {(f"p{n}", f"c{n}", f"r{n}") for n in range(9)} | {
        ("p0", "c0", "x"),
        ("p0", "x", "r0"),
        ("p1", "r1", "z"),
    }
    responses = [row for _, row in rows(run, "responses")]
    assert len({row["response_id"] for row in responses}) == len(responses) == 20


def test_all_that_descends_from_a_prompt_lies_in_its_shard(made_run):
    for table in ("prompts", "responses", "scores", "logprobs", "pairs"):
        found = rows(made_run, table)
        assert {shard for shard, _ in found} == set(range(5))
        assert all(shard_of(row["prompt_id"], 5) == shard for shard, row in found), table


def test_a_pairs_row_is_consistent(made_run):
    for _, row in rows(made_run, "pairs"):
        for side in ("chosen", "rejected"):
            assert len(row[f"{side}_ids"]) == len(row[f"ref_{side}_token_logps"]) == row[f"{side}_length"]
            assert sum(row[f"ref_{side}_token_logps"]) == pytest.approx(row[f"ref_{side}_logps"], abs=1e-9)
        assert len(row["prompt_ids"]) == row["prompt_length"]
        assert (row["chosen_score"], row["rejected_score"], row["source"]) == (1.0, 0.0, "given")
    split = [row["split"] for _, row in rows(made_run, "pairs")]
    assert len(split) == 303 and 0.04 < split.count("test") / 303 < 0.17


def test_the_files_are_as_promised(made_run):
    for path in made_run.rglob("*.parquet"):
        table = path.name.split(".")[1]
        own = pq.read_schema(path)
        fields = [
            field for field in TABLES[table] if b"optional" not in field.metadata or field.name in own.names
        ]
        assert own.equals(pa.schema(fields), check_metadata=False)
        read = pq.read_table(path, schema=TABLES[table])
        for name in set(TABLES[table].names) - set(own.names):
            assert read[name].null_count == len(read)
        for group in range(pq.ParquetFile(path).metadata.num_row_groups):
            assert pq.ParquetFile(path).metadata.row_group(group).column(0).compression == "ZSTD"


# Runs the engine on its own arguments and prints which libraries of models it has loaded.
LOADED_SCRIPT = """
import runpy
import sys

sys.argv = sys.argv[1:]
try:
    runpy.run_module("engine.cli", run_name="__main__")
except SystemExit as end:
    assert not end.code
print("loaded:", [name for name in ("torch", "transformers", "vllm") if name in sys.modules])
"""


def precompute_and_what_it_loads(words, run) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LOADED_SCRIPT, *map(str, words), "-o", str(run)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "loaded: []" in done.stdout, done.stdout + done.stderr
    return done.stdout


def test_a_finished_run_again_loads_no_model_and_writes_nothing(made_run, precompute_words):
    before = tree(made_run)
    assert "nothing to do" in precompute_and_what_it_loads(precompute_words, made_run)
    assert tree(made_run) == before


def test_pairs_made_again_from_log_probs_that_are_there_load_no_model(made_run, precompute_words, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    shutil.rmtree(next(run.glob("pairs-*")))
    precompute_and_what_it_loads(precompute_words, run)
    assert tree(run) == tree(made_run)


def test_a_lost_shard_is_made_again_and_nothing_else(
    made_run, precompute_words, tmp_path, model_path, pairs_file
):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    folder = next(run.glob("logprobs-*"))
    (folder / "00002.json").unlink()
    wanted = plan(run, load(RECIPE, [word for word in precompute_words[3:] if word != "--set"]))
    assert {shard: [stage.name for stage in stages] for shard, stages in missing(wanted).items()} == {
        2: ["logprobs", "pairs"]
    }
    precompute(run, wanted.recipe, 1)
    assert tree(run) == tree(made_run)


def test_a_shard_made_from_other_bytes_is_seen(made_run, precompute_words, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    wanted = plan(run, load(RECIPE, [word for word in precompute_words[3:] if word != "--set"]))
    marker = next(run.glob("logprobs-*")) / "00001.json"
    value = unsealed(json.loads(marker.read_text()))
    value["counts"]["scored"] += 1
    marker.write_bytes(sealed_bytes(value))
    assert {shard: [stage.name for stage in stages] for shard, stages in missing(wanted).items()} == {
        1: ["pairs"]
    }
    status(run, wanted.recipe)
    assert "1 shards were made from shards that are not there any more" in capsys.readouterr().out


def test_workers_make_the_same_rows(made_run, precompute_words, tmp_path):
    run = tmp_path / "run"
    command(*precompute_words, "-o", run, "--workers", 2)
    theirs, ours = tree(run), tree(made_run)
    assert theirs.keys() == ours.keys()
    assert all(theirs[name] == ours[name] for name in ours if name.startswith(("prompts", "given")))
    for (_, a), (_, b) in zip(rows(run, "pairs"), rows(made_run, "pairs"), strict=True):
        assert (a["pair_id"], a["chosen_ids"], a["split"]) == (b["pair_id"], b["chosen_ids"], b["split"])
        np.testing.assert_allclose(a["ref_chosen_token_logps"], b["ref_chosen_token_logps"], atol=1e-5)


# As sitecustomize.py of driver and workers: [given] kills the process. A worker is sent the name of its
# function.
KILLED_WORKER_SCRIPT = """
import dataclasses
import os
import signal

import engine.stages
from engine.stages import given


def kill(batch, config, context):
    os.kill(os.getpid(), signal.SIGKILL)


engine.stages.STAGES["given"] = dataclasses.replace(given.STAGE, fn=kill)
"""


@pytest.mark.long
def test_a_worker_that_is_killed_is_an_error_with_its_shard(precompute_words, tmp_path, monkeypatch):
    """A worker that ends in mid-shard: the driver says so and leaves no process behind."""
    trap = tmp_path / "sitecustomize.py"
    trap.write_text(KILLED_WORKER_SCRIPT)
    done = command(
        *precompute_words,
        "-o",
        tmp_path / "run",
        "--workers",
        2,
        code=1,
        env=__import__("os").environ | {"PYTHONPATH": str(tmp_path) + ":" + str(ROOT)},
    )
    assert "ended at shard" in done.stderr and "SIGKILL" in done.stderr and "Traceback" not in done.stderr
    command(*precompute_words, "-o", tmp_path / "run", "--workers", 2)


def test_two_at_once_are_refused(made_run, precompute_words):
    wanted = plan(made_run, load(RECIPE, [word for word in precompute_words[3:] if word != "--set"]))
    with (
        opened(wanted),
        pytest.raises(UserError, match=r"another `engine precompute`.*is at work"),
        opened(wanted),
    ):
        pass


@pytest.fixture
def own_model(model_path, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(model_path, path)
    return path


def change_weights(path):
    raw = bytearray((path / "model.safetensors").read_bytes())
    raw[-3] ^= 1
    (path / "model.safetensors").write_bytes(raw)


def change_template(path):
    (path / "chat_template.jinja").write_text((path / "chat_template.jinja").read_text() + " ")


def change_tokenizer(path):
    value = json.loads((path / "tokenizer_config.json").read_text()) | {"clean_up_tokenization_spaces": True}
    (path / "tokenizer_config.json").write_text(json.dumps(value))


def change_config(path):
    value = json.loads((path / "config.json").read_text()) | {"rms_norm_eps": 0.5}
    (path / "config.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (change_weights, "model.weights"),
        (change_template, "model.template"),
        (change_tokenizer, "model.tokenizer"),
        (change_config, "model.config"),
        ({"logprobs__max_length": 100}, "max_length (was 512, is 100)"),
        ({"model__dtype": "bfloat16"}, "model.dtype"),
        ({"pairs__test_share": 0.5}, "test_share"),
        ({"prompts__max_row_bytes": 9999}, "max_row_bytes"),
    ],
)
def test_status_names_the_fact_that_changed(mixed, own_model, tmp_path, capsys, change, fact):
    recipe = recipe_of(mixed, own_model, prompts__format="preference")
    run = tmp_path / "run"
    with opened(plan(run, recipe)):
        pass
    status(run, recipe)
    assert "is not what the recipe asks for" not in capsys.readouterr().out
    more = change if isinstance(change, dict) else {}
    if callable(change):
        change(own_model)
    status(run, recipe_of(mixed, own_model, prompts__format="preference", **more))
    said = capsys.readouterr().out
    assert "is not what the recipe asks for" in said and fact in said


def test_status_names_a_changed_input(mixed, model_path, tmp_path, capsys):
    recipe = recipe_of(mixed, model_path, prompts__format="preference")
    with opened(plan(tmp_path / "run", recipe)):
        pass
    mixed.write_bytes(mixed.read_bytes() + b"\n{}")
    status(tmp_path / "run", recipe)
    assert "input.mixed.jsonl (was" in capsys.readouterr().out


def test_status_without_the_input_shows_what_there_is(mixed, model_path, tmp_path, capsys):
    recipe = recipe_of(mixed, model_path, prompts__format="preference")
    precompute(tmp_path / "run", recipe, 1)
    mixed.unlink()
    capsys.readouterr()
    status(tmp_path / "run", recipe)
    said = capsys.readouterr().out
    assert "12 pairs" in said and "nothing to read at" in said and "rejects: 1 bad_json in prompts" in said


def test_an_input_that_changes_while_it_is_read_is_refused(mixed, model_path, tmp_path):
    recipe = recipe_of(mixed, model_path, prompts__format="preference")
    run = plan(tmp_path / "run", recipe)
    mixed.write_bytes(mixed.read_bytes() + b"\n{}")
    with opened(run), pytest.raises(UserError, match=r"mixed\.jsonl changed while it was read"):
        scan(run, {0, 1, 2}, lambda count: None)


def test_a_run_folder_among_the_sources_is_not_read(mixed, model_path, tmp_path):
    for _ in range(2):
        precompute(mixed.parent / "run", recipe_of(mixed.parent, model_path, prompts__format="preference"), 1)
    assert len(list((mixed.parent / "run").glob("prompts-*"))) == 1


def test_one_response_is_never_both_sides(model_path, tmp_path):
    """A text twice in one comparison counts with its mean score.

    SQL of one's own that chooses it twice makes a reject."""
    path = tmp_path / "u.jsonl"
    path.write_text(
        json.dumps(
            {
                "instruction": "q",
                "completions": [
                    {"response": r, "score": s} for r, s in (("A", 5), ("A", 1), ("B", 4), ("C", 3.5))
                ],
            }
        )
    )
    precompute(tmp_path / "run", recipe_of(path, model_path), 1)
    assert [
        (row["chosen"], row["rejected"], row["chosen_score"], row["rejected_score"])
        for _, row in rows(tmp_path / "run", "pairs")
    ] == [("B", "A", 4.0, 3.0)]
    own = tmp_path / "own.sql"
    own.write_text(
        "select prompt_id, response_id as chosen_response_id, response_id as rejected_response_id, "
        "score as chosen_score, score as rejected_score from scores -- mine"
    )
    with pytest.raises(NothingMade, match="same_response"):
        precompute(tmp_path / "run", recipe_of(path, model_path, pairs__choose=own), 1)
    assert {row["reason"] for _, row in rows(tmp_path / "run", "rejects")} == {"same_response"} and not rows(
        tmp_path / "run", "pairs"
    )


def test_rejects_of_every_stage_name_their_place(model_path, pairs_file, tmp_path):
    precompute(
        tmp_path / "run",
        recipe_of(
            pairs_file,
            model_path,
            logprobs__max_length=76,
            logprobs__too_long="drop",
            prompts__format="preference",
        ),
        1,
    )
    found = [row for _, row in rows(tmp_path / "run", "rejects")]
    assert {row["stage"] for row in found} == {"logprobs", "pairs"}
    assert all(
        row["file"] == pairs_file.name
        and row["line"] > 0
        and row["raw"]
        and row["detail"]
        and row["prompt_id"]
        and row["response_id"]
        for row in found
    )


def test_stage_order_is_checked(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[model]\n[prompts]\nsource = 'x'\n[logprobs]\n")
    with pytest.raises(UserError, match="nothing to read"):
        plan(tmp_path, load(path))
    (tmp_path / "x").write_text('{"prompt": "x"}')
    with pytest.raises(UserError, match=r"\[logprobs\] reads responses, which no section above it makes"):
        plan(tmp_path, load(path, [f"prompts.source={tmp_path / 'x'}"]))
    path.write_text("[given]\n")
    with pytest.raises(UserError, match=r"first stage must be \[prompts\]"):
        plan(tmp_path, load(path))


def test_too_long_goes_where_the_recipe_says(model_path, pairs_file, tmp_path):
    """Each way, and what no way can fit: responses in = log-probs + rejects, pairs in = pairs + rejects."""
    found = {}
    for name, ways in {
        "drop": '["drop"]',
        "prompt": '["truncate_prompt_left"]',
        "response": '["truncate_response"]',
        "both": '["truncate_prompt_left", "truncate_response"]',
    }.items():
        run = tmp_path / name
        precompute(
            run, recipe_of(pairs_file, model_path, logprobs__max_length=76, logprobs__too_long=ways), 1
        )
        scored, refused = rows(run, "logprobs"), [row for _, row in rows(run, "rejects")]
        assert (
            len(scored) + sum(row["stage"] == "logprobs" for row in refused)
            == len(rows(run, "responses"))
            == 606
        )
        assert len(rows(run, "pairs")) + sum(row["stage"] == "pairs" for row in refused) == 303
        assert all(len(row["prompt_ids"]) + len(row["response_ids"]) <= 76 for _, row in scored)
        found[name] = {row["truncated"] for _, row in scored}, {row["reason"] for row in refused}
    with pytest.raises(UserError, match="drop beside another way"):
        plan(tmp_path, recipe_of(pairs_file, model_path, logprobs__too_long='["drop", "truncate_response"]'))
    assert found["drop"] == ({None}, {"too_long", "no_logprobs"})
    assert found["prompt"] == ({"prompt"}, set()) or found["prompt"] == ({None, "prompt"}, set())
    assert found["response"][0] >= {"response"} and found["response"][1] <= {"too_long", "no_logprobs"}
    assert not found["both"][1]
