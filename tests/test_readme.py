"""The README's tour prints what stands there, and every command of the README and the pages runs."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.sandbox import world
from tests import tour
from tests.conftest import ROOT, SHARED, preferences
from tests.pages import FOLDER, README, blocks, commands, printed

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
        ["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_commands() -> list[str]:
    """Every command of a block of `sh`, once: the index's first, which make the run that others ask."""
    pages = [FOLDER / "index.md", README, *sorted(FOLDER.glob("*.md"))]
    found = [line for page in pages for block in blocks("sh", page=page) for line in commands(block)]
    return list(dict.fromkeys(found))


def test_the_commands_are_those_that_the_tests_know():
    assert {shlex.split(line)[0] for line in run_commands()} == {
        "./pipelines/demo",
        "./tests/run",
        "engine",
        "trainer",
        "torchrun",
        "python",
    }


@pytest.mark.long
def test_every_command_of_the_pages_runs(folder):
    said = {line: run(line, folder) for line in run_commands() if not line.startswith("./")}
    by_begin = {" ".join(shlex.split(line)[:3]): text for line, text in said.items()}
    assert "pairs" in by_begin["engine status runs/hh"] and "step 0: loss" in by_begin["trainer run dpo"]
    assert any("step 0: loss 0.693147" in text for text in said.values())


@pytest.mark.long
def test_the_tour_prints_what_the_readme_shows(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("the README shows what a CPU makes")
    clone = tour.clone(tmp_path)
    for block in tour.tour():
        for entry in printed(block):
            got = tour.run(entry.command, clone)
            shown = "\n".join(got)
            advice = "python -m tests.tour --write"
            assert tour.is_as_shown(entry.output, got), f"{entry.command}\n{shown}\n{advice}"


def test_what_is_printed_is_compared_to_the_digits_shown():
    assert tour.is_as_shown(("a", "…", "1,024 pairs, 0.6931"), ["a", "b", "c", "1,024 pairs, 0.6932"])
    assert tour.is_as_shown(("12 steps in 19 s; 1,442 tokens/s",), ["12 steps in 7 s; 9 tokens/s"])
    for shown, got in (
        (("1,024 pairs",), ["1,025 pairs"]),
        (("loss 0.6931",), ["loss 0.6951"]),
        (("train-3575eec5eed7",), ["train-3575eec5eed8"]),
        (("a", "b"), ["a"]),
        (("a", "…", "c"), ["a", "b"]),
    ):
        assert not tour.is_as_shown(shown, got), (shown, got)


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
