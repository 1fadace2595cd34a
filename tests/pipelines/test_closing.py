"""The end of a command: the commands it names work as printed, --json is one document, --quiet is quiet."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli import COMMANDS
from schemas.store import open_store
from tests.conftest import ROOT, preferences

RECIPE = """
[model]
[prompts]
shards = 2
[given]
[logprobs]
[pairs]
test_share = 0.2
[train]
batch_size = 8
max_steps = 3
"""
RUN = "my run"


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_path) -> Path:
    """A folder with a recipe, rows of which one is refused, and the two programs as pip installs them."""
    folder = tmp_path_factory.mktemp("a place")
    (folder / "my recipe.toml").write_text(RECIPE)
    rows = [json.dumps(row) for row in preferences(5, 40)]
    rows.append('{"prompt": "p", "chosen": "", "rejected": "no"}')
    (folder / "rows.jsonl").write_text("\n".join(rows))
    (folder / "bin").mkdir()
    for name in ("engine", "trainer"):
        program = folder / "bin" / name
        program.write_text(f"#!{sys.executable}\nfrom {name}.cli import main\nmain()\n")
        program.chmod(0o755)
    return folder


def shell(place: Path, line: str) -> subprocess.CompletedProcess:
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=place,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def make(place, model_path) -> str:
    """The command line that makes the run."""
    model = f"--set model.name='{model_path}'"
    return f"engine precompute 'my recipe.toml' -o '{RUN}' --set prompts.source=rows.jsonl {model}"


@pytest.fixture(scope="module")
def said(place, make) -> list[str]:
    """What the command said that made the run."""
    return shell(place, make).stdout.splitlines()


def next_commands(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines[lines.index("next:") + 1 :]]


def test_the_commands_that_come_next_work_as_printed(place, said):
    printed = next_commands(said)
    assert printed == [
        f"engine show '{RUN}'",
        f"engine sql '{RUN}' \"select * from pairs_text limit 3\"",
        f"engine report '{RUN}' -o report.html",
        f"trainer run 'my recipe.toml' -o '{RUN}'",
    ]
    for line in printed:
        if line.startswith("engine report") and "report" not in COMMANDS:
            continue
        done = shell(place, line)
        assert done.stdout
        if line.startswith("trainer run"):
            after_training = next_commands(done.stdout.splitlines())
    assert [line.split()[:2] for line in after_training] == [["trainer", "eval"], ["trainer", "compare"]]
    for line in after_training:
        assert shell(place, line).stdout
    assert f"rejects: 1 (engine sql '{RUN}' rejects)" in said
    assert "rows.jsonl" in shell(place, f"engine sql '{RUN}' rejects").stdout


def document_of(done: subprocess.CompletedProcess) -> dict:
    return json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))


def test_json_of_precompute_is_what_the_manifests_say(place, make, said):
    done = shell(place, f"{make} --json")
    made = document_of(done)
    assert "nothing to do" in done.stderr, "lines for people go to the error output"
    assert made["complete"] and made["run"] == RUN and made["seconds"] > 0
    store = open_store(place / RUN)
    for stage in made["stages"]:
        manifest = json.loads(store.child(stage["folder"]).read("manifest.json"))
        assert stage["rows"] == manifest["rows"]
        assert sum(stage["rejects"].values()) == manifest["counts"].get("rejects", 0)
    assert [stage["stage"] for stage in made["stages"]] == ["prompts", "given", "logprobs", "pairs"]
    rejected = {reason: count for stage in made["stages"] for reason, count in stage["rejects"].items()}
    assert sum(rejected.values()) == 1


@pytest.mark.parametrize("options", ["--quiet", "-q --json"])
def test_quiet_says_nothing_that_is_not_wrong(place, make, said, options):
    done = shell(place, f"{make} {options}")
    assert done.stderr == ""
    assert done.stdout == "" if options == "--quiet" else document_of(done)["complete"]


def test_json_of_the_commands_that_look(place, said):
    status = document_of(shell(place, f"engine status '{RUN}' --json"))
    assert status["complete"] and status["shards"] == 2
    rows = {stage["stage"]: stage["rows"] for stage in status["stages"]}
    assert rows["pairs"]["pairs"] == rows["logprobs"]["logprobs"] // 2 == 40
    assert [reject["rows"] for reject in status["rejects"]] == [1]
    verified = document_of(
        shell(place, f"engine verify '{RUN}' --trainer-alone --set verify.sample=4 --json")
    )
    assert verified["passed"] and not verified["problems"] and verified["gaps"][0]["tokens"] > 0
    planned = document_of(shell(place, f"trainer plan 'my recipe.toml' -o '{RUN}' --json"))
    assert planned["bytes"]["together"] >= planned["bytes"]["weights"] > 0
    quiet = shell(place, f"engine status '{RUN}' -q")
    assert "pairs-" in quiet.stdout and quiet.stderr == ""


def test_json_of_training_is_what_its_record_says(place, said):
    train = f"trainer run 'my recipe.toml' -o '{RUN}' --set train.max_steps=2"
    first = shell(place, f"{train} --json")
    trained = document_of(first)
    folder = place / trained["folder"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert trained["steps"] == 2
    assert trained["metrics"]["loss"] == [line["loss"] for line in lines if "loss" in line][-1]
    assert (
        trained["eval_metrics"]["eval_loss"]
        == [line["eval_loss"] for line in lines if "eval_loss" in line][-1]
    )
    assert (place / trained["policy"]).is_dir() and "step 2/2" in first.stderr
    again = shell(place, f"{train} -q --json")
    assert document_of(again) == trained and again.stderr == ""
    compared = document_of(shell(place, f"trainer compare '{RUN}' --json"))
    in_lines = shell(place, f"trainer compare '{RUN}' --format json").stdout.splitlines()
    assert compared["runs"] == [json.loads(line) for line in in_lines]
    measured = document_of(shell(place, f"trainer eval '{RUN}' --json"))
    assert measured == json.loads(shell(place, f"trainer eval '{RUN}' --format json").stdout)
    assert measured["pairs"] > 0


def test_a_run_that_made_nothing_gives_its_document_and_ends_with_3(place, make):
    """No pair is left where prompts may have one token."""
    environment = os.environ | {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    line = make.replace(f"'{RUN}'", "none") + " --set logprobs.max_length=2 --json"
    done = subprocess.run(["bash", "-c", line], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    made = {stage["stage"]: stage for stage in document_of(done)["stages"]}
    assert made["logprobs"]["rows"].get("logprobs", 0) == 0 and sum(made["logprobs"]["rejects"].values()) > 0
    assert "error: nothing was made" in done.stderr and "next:" not in done.stderr
