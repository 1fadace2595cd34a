"""Samples depend on seed, prompt and place alone: not on batches, workers or kills; and none is lost."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from engine.commands.precompute import precompute
from engine.plan import plan
from schemas.errors import UserError
from schemas.recipe import load
from tests.conftest import ROOT, command, settings, tree

RECIPE = "[model]\n[prompts]\nformat = 'prompts'\nshards = 4\n[generate]\nn = 3\nmax_tokens = 40\n"


def rows(run, table):
    return [
        row for path in sorted(run.glob(f"*/*.{table}.parquet")) for row in pq.read_table(path).to_pylist()
    ]


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory):
    from pipelines.sandbox import world

    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in world.prompts(3, 40)))
    return path


@pytest.fixture(scope="module")
def words(model_path, prompts_file, tmp_path_factory):
    recipe = tmp_path_factory.mktemp("recipe") / "generate.toml"
    recipe.write_text(RECIPE)
    return ["engine", "precompute", recipe, *settings(prompts__source=prompts_file, model__name=model_path)]


@pytest.fixture(scope="module")
def made(words, tmp_path_factory):
    run = tmp_path_factory.mktemp("generated") / "run"
    command(*words, "-o", run)
    return run


def test_all_samples_are_kept_with_all_that_is_known_of_them(made):
    found = rows(made, "responses")
    assert (
        len(found) == 120 == len({row["response_id"] for row in found})
        and len({row["prompt_id"] for row in found}) == 40
    )
    for row in found:
        assert (
            len(row["response_ids"]) == len(row["sampled_token_logps"]) <= 40
            and max(row["sampled_token_logps"]) <= 0
        )
        assert (
            row["source"] == "generated"
            and row["finish_reason"] in ("stop", "length")
            and (row["finish_reason"] == "stop" or len(row["response_ids"]) == 40)
        )
    assert len({row["text"] for row in found}) > 100


def test_other_batches_and_workers_give_the_same_samples(made, words, tmp_path, monkeypatch):
    """Two workers have half the threads each, and on some CPUs attention sums in another order by their
    number: log-probs agree up to rounding."""
    command(*words, "-o", tmp_path / "two", "--workers", 2)
    assert tree(tmp_path / "two").keys() == tree(made).keys()
    for a, b in zip(rows(tmp_path / "two", "responses"), rows(made, "responses"), strict=True):
        logps = a.pop("sampled_token_logps"), b.pop("sampled_token_logps")
        assert a == b and logps[0] == pytest.approx(logps[1], abs=1e-5)
    monkeypatch.setattr("engine.models.hf._GENERATE_ROWS", 7)
    precompute(tmp_path / "batches", load(words[2], [word for word in words[3:] if word != "--set"]), 1)
    texts = [[row["text"] for row in rows(run, "responses")] for run in (made, tmp_path / "batches")]
    assert texts[0] == texts[1]


def test_a_kill_changes_nothing(made, words, tmp_path):
    run = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.cli", *map(str, words[1:]), "-o", run],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not list(run.glob("generate-*/0*.json")) and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list(run.glob("generate-*/0*.json"))) < 5 and not list(run.glob("generate-*/manifest.json"))
    command(*words, "-o", run)
    assert tree(run) == tree(made)


def test_another_seed_other_samples_the_same_place(made, words, tmp_path):
    command(*words, "-o", tmp_path / "run", "--set", "seed=1")
    mine, other = (
        {row["prompt_id"]: row["text"] for row in rows(run, "responses")} for run in (made, tmp_path / "run")
    )
    assert mine.keys() == other.keys() and sum(mine[key] == other[key] for key in mine) < 10
    assert {path.name.split("-")[0]: path.name for path in made.glob("prompts-*")} == {
        path.name.split("-")[0]: path.name for path in (tmp_path / "run").glob("prompts-*")
    }


def test_prompts_that_leave_no_room_are_rejects_and_those_that_leave_little_are_shortened(
    model_path, tmp_path
):
    path, recipe = tmp_path / "long.jsonl", tmp_path / "r.toml"
    path.write_text(
        "".join(json.dumps({"prompt": text}) + "\n" for text in ("1 " * 505, "1 " * 600, "How many?"))
    )
    recipe.write_text(RECIPE)
    precompute(
        tmp_path / "run",
        load(recipe, [f"prompts.source={path}", f"model.name={model_path}", "prompts.shards=1"]),
        1,
    )
    found, (reject,) = rows(tmp_path / "run", "responses"), rows(tmp_path / "run", "rejects")
    assert (
        reject["stage"] == "generate"
        and reject["reason"] == "too_long"
        and reject["line"] == 2
        and "takes 512 in all" in reject["detail"]
    )
    lengths = sorted(
        {(row["prompt_id"], len(row["response_ids"])) for row in found if row["finish_reason"] == "length"},
        key=lambda pair: pair[1],
    )
    assert len(found) == 6 and lengths[0][1] < 10


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("generate.n=0", "n = 0: expected a number of at least 1"),
        ("generate.temperature=0", "greedy responses are all the same"),
        ("generate.top_p=1.5", "top_p = 1.5: expected a number above 0 and at most 1"),
        ("generate.temprature=1", "did you mean 'temperature'"),
        ("model.backend=vlm", "did you mean 'vllm'"),
        ("model.vllm.max_model_len=8k", "max_model_len = 8k: expected a whole number"),
        (
            "model.vllm.tensor_parallel_size=0",
            "tensor_parallel_size = 0: expected a whole number of at least 1",
        ),
        ("model.llvm.x=1", r"has no table \[model.llvm\]"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_is_made(words, setting, said):
    with pytest.raises(UserError, match=said):
        load(words[2], [word for word in words[3:] if word != "--set"] + [setting])


def test_the_backend_is_a_fact(words, tmp_path, monkeypatch):
    recipe = load(words[2], [word for word in words[3:] if word != "--set"])
    monkeypatch.setattr("engine.models.spec.gpu_is_there", lambda: False)
    facts = plan(tmp_path, recipe).planned["generate"].facts["model"]
    assert facts["backend"] == "hf"
    monkeypatch.setattr("engine.models.spec.gpu_is_there", lambda: True)
    monkeypatch.setattr("engine.models.spec.vllm_is_installed", lambda: True)
    planned = plan(tmp_path, recipe).planned["generate"]
    assert planned.facts["model"] == facts | {"backend": "vllm"}
    assert (
        plan(tmp_path, load(words[2], [word for word in words[3:] if word != "--set"] + ["model.backend=hf"]))
        .planned["generate"]
        .facts["model"]
        == facts
    )
    fewer = plan(
        tmp_path,
        load(words[2], [word for word in words[3:] if word != "--set"] + ["model.vllm.max_num_seqs=3"]),
    ).planned["generate"]
    assert fewer.folder == planned.folder, "how much runs side by side is no fact"
    nested = load(words[2], ["model.vllm.compilation_config.level=0"]).section("model").vllm
    assert nested == {"compilation_config": {"level": 0}}
    more = plan(
        tmp_path,
        load(words[2], [word for word in words[3:] if word != "--set"] + ["model.vllm.quantization=fp8"]),
    ).planned["generate"]
    assert more.facts["model"]["vllm"] == {"quantization": "fp8"}
