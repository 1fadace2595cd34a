"""Every command in the README runs, as it stands there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.sandbox import world
from tests.conftest import ROOT, SHARED, preferences

COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for line in block.splitlines()
    if line
]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model_path):
    """A folder that looks like a clone, with the data file and the model of the README's job.

    The data are the real ones where they are, else small ones in their form."""
    path = tmp_path_factory.mktemp("clone")
    for name in ("pipelines", "engine", "trainer", "schemas", "tests", "pyproject.toml", "README.md"):
        (path / name).symlink_to(ROOT / name)
    (path / ".venv").symlink_to(sys.prefix)
    (path / "stories260K").symlink_to(model_path)
    _dialogues(path / "hh-harmless.jsonl.gz")
    (path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in world.prompts(12, 16)))
    return path


def _dialogues(path: Path) -> None:
    """48 dialogues in the form of hh-rlhf: real ones where there are any, else word problems."""
    import gzip
    import itertools

    def made():
        for problem in preferences(9, 48):
            start = f"\n\nHuman: {problem['prompt']}\n\nAssistant: "
            yield json.dumps({side: start + problem[side] for side in ("chosen", "rejected")}) + "\n"

    real = SHARED / "data" / "hh-harmless.jsonl.gz"
    with gzip.open(path, "wt") as out:
        if real.exists():
            with gzip.open(real, "rt") as rows:
                out.writelines(itertools.islice(rows, 48))
        else:
            out.writelines(made())


def run(line: str, folder: Path) -> str:
    env = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_readme_names_what_the_tests_know():
    assert {shlex.split(line)[0] for line in COMMANDS} == {
        "./pipelines/demo",
        "./tests/run",
        "engine",
        "trainer",
        "torchrun",
        "python",
    }
    assert len(COMMANDS) == len(set(COMMANDS))


@pytest.mark.long
def test_the_job_and_what_follows_it(folder):
    said = [run(line, folder) for line in COMMANDS if not line.startswith("./")]
    assert "pairs" in said[1] and "avg" in said[2] and "step 0: loss 0.693147" in said[3]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_what_schedulers_are_given_can_be_read_and_starts_commands_that_there_are():
    import yaml

    from engine.commands.precompute import command
    from engine.part import Part

    for text in blocks("bash"):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    kinds = [yaml.safe_load(text) for text in blocks("yaml")]
    assert {"kind", "run"} <= {key for kind in kinds for key in kind}
    started = re.findall(r"engine precompute (.*?)(?:[`\n]|\"\])", "\n".join(blocks("bash") + blocks("yaml")))
    parts = set()
    for line in started:
        line = re.sub(r"::\$\w+", "::16", line)  # how many there are, and which of them
        words = shlex.split(re.sub(r"\$\w+", "3", line))
        given = command.make_context("precompute", words).params
        parts.add(Part.of(given["part"]).is_part)
    assert len(started) == 4 and parts == {True, False}


@pytest.mark.long
def test_set_up_commands(folder):
    """An environment made by pipelines/install (as `./tests/run` does) is used: no second installation."""
    if not list(Path(sys.prefix).glob(".prefmill-*")):
        pytest.skip("this environment was not made by pipelines/install")
    said = run("./pipelines/demo", folder)
    assert (
        "BMC" in said.rsplit("8. Right answers", 1)[1] and (folder / "runs" / "demo" / "recipe.toml").exists()
    )
    assert "test_imports_go_one_way" in run("./tests/run --collect-only -q tests/test_layout.py", folder)
