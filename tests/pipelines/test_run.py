"""Rounds: each begins with the policy of the one before and makes data of its own.

A killed one goes on where it was.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq

from pipelines.run import rounds
from schemas.adapters import base_of, is_adapter
from schemas.identity import weights_digest
from schemas.recipe import load
from tests.conftest import ROOT, preferences, settings, tree

RECIPE = """
[model]
[prompts]
shards = 2
[generate]
n = 2
max_tokens = 24
[check]
function = "SCORE:score"
[logprobs]
[pairs]
choose = "best_vs_worst"
scorer = "check"
unfinished = "keep"
test_share = 0.0
[train]
learning_rate = 1e-3
batch_size = 8
max_steps = 3
save_every = 1
[rounds]
n = 2
"""

GIVEN = """
[model]
[prompts]
shards = 1
[given]
[logprobs]
[pairs]
test_share = 0.0
[train]
learning_rate = 1e-3
batch_size = 4
max_steps = 1
[train.lora]
r = 4
[rounds]
n = 2
"""


def start(tmp_path, model_path, run) -> subprocess.Popen:
    words = [
        "-m",
        "pipelines.run",
        tmp_path / "r.toml",
        "-o",
        run,
        *settings(prompts__source=tmp_path / "p.jsonl", model__name=model_path),
    ]
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def tree_without_recipes(folder) -> dict[str, bytes]:
    """Recipes, and cards that hold one, name their folder; a plan holds its recipe's digest."""
    kept: dict[str, bytes] = {}
    for name, data in tree(folder).items():
        if name.endswith("plan.json"):
            plan = json.loads(data)
            del plan["recipe"], plan["sha256"]
            kept[name] = json.dumps(plan).encode()
        elif not name.endswith(("recipe.toml", "README.md")):
            kept[name] = data
    return kept


def test_the_second_rounds_data_is_the_new_policys_and_a_kill_changes_nothing(model_path, tmp_path):
    from pipelines.sandbox import world

    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in world.prompts(2, 20)))
    (tmp_path / "score.py").write_text("def score(messages, response):\n    return len(response)\n")
    (tmp_path / "r.toml").write_text(RECIPE.replace("SCORE", str(tmp_path / "score.py")))
    run = tmp_path / "run"
    process = start(tmp_path, model_path, run)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    told = json.loads((run / "rounds.json").read_text())
    assert [row["round"] for row in told] == [1, 2] and told[0]["weights"] != told[1]["weights"]
    facts = [
        json.loads(next((run / f"round-{number}").glob("generate-*/facts.json")).read_text())["model"][
            "weights"
        ]
        for number in (1, 2)
    ]
    assert facts[1] == told[0]["weights"] != facts[0], "round 2 answers with round 1's policy"
    reference = json.loads(next((run / "round-2").glob("pairs-*/facts.json")).read_text())["reference"][
        "weights"
    ]
    assert reference == told[0]["weights"], "each round's reference is the round's start"
    texts = [
        [
            row["text"]
            for path in sorted((run / f"round-{number}").glob("generate-*/*.responses.parquet"))
            for row in pq.read_table(path).to_pylist()
        ]
        for number in (1, 2)
    ]
    assert texts[0] != texts[1]

    killed = tmp_path / "killed"
    process = start(tmp_path, model_path, killed)
    while not list(killed.glob("round-1/train-*/checkpoint-1")) and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    process = start(tmp_path, model_path, killed)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert tree_without_recipes(run) == tree_without_recipes(killed)


def test_a_round_with_an_adapter_hands_on_a_whole_model(model_path, tmp_path):
    rows = "".join(json.dumps(row) + "\n" for row in preferences(4, 6))
    (tmp_path / "p.jsonl").write_text(rows)
    (tmp_path / "r.toml").write_text(GIVEN)
    recipe = load(tmp_path / "r.toml", (f"prompts.source={tmp_path / 'p.jsonl'}", f"model.name={model_path}"))
    run = tmp_path / "run"
    first, last = rounds(str(run), recipe)
    told = json.loads((run / "rounds.json").read_text())
    assert first == run / told[0]["policy"] and not is_adapter(first) and is_adapter(last)
    assert told[0]["weights"] == weights_digest(first) and is_adapter(run / told[0]["adapter"])
    assert "adapter" not in told[1] and base_of(last) == first
    reference = json.loads(next((run / "round-2").glob("pairs-*/facts.json")).read_text())["reference"]
    assert reference["weights"] == told[0]["weights"]

    made = tree(run)
    weights = first / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert rounds(str(run), recipe) == [first, last] and tree(run) == made
    assert weights.stat().st_mtime_ns == written, "found again"
