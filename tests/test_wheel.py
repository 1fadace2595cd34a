"""The wheel holds all that the packages have, and does the job without the clone."""

import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.test_readme import _dialogues

pytestmark = pytest.mark.long
PACKAGES = ("engine", "trainer", "schemas", "pipelines")
# They set up a clone, and do nothing outside one.
OF_A_CLONE = {"pipelines/demo", "pipelines/install"}


def tracked() -> list[str]:
    """The files that git has of the packages, and those that a wheel is made by."""
    words = ["git", "ls-files", "-z", *PACKAGES, "pyproject.toml", "README.md", "LICENSE"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of what git has: files that nobody committed are in no user's wheel."""
    clone = tmp_path_factory.mktemp("clone")
    for name in tracked():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clone / name)
    out = tmp_path_factory.mktemp("wheel")
    words = ["wheel", str(clone), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out)]
    _run([sys.executable, "-m", "pip", *words], cwd=out)
    (made,) = out.glob("prefmill-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """An environment with the wheel, which sees the libraries of this one, but no other prefmill."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    _run([sys.executable, "-m", "venv", "--without-pip", str(place)])
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    _run([*pip, "install", "--no-deps", "--no-index", str(wheel)])
    (packages,) = place.glob("lib/python*/site-packages")
    # Files ending in .pth in that folder, such as an editable prefmill's, are not read.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory, model_path) -> Path:
    """A folder outside the clone, with data and a model."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "stories260K").symlink_to(model_path)
    _dialogues(folder / "hh-harmless.jsonl.gz")
    return folder


def _run(words: list[str], **where) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600, **where)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_file_of_the_packages_is_in_it(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    of_packages = {name for name in tracked() if name.split("/")[0] in PACKAGES}
    assert of_packages - inside == OF_A_CLONE
    assert not [name for name in inside if name.startswith("tests")]


def test_its_modules_are_the_ones_that_run(installed, elsewhere):
    script = "import engine, trainer, pipelines; print(engine.__file__, trainer.__file__, pipelines.__file__)"
    files = _run([str(installed / "bin" / "python"), "-c", script], cwd=elsewhere).split()
    assert all(Path(file).is_relative_to(installed) for file in files), files


def test_the_job_by_a_recipes_bare_name(installed, elsewhere):
    """The four lines of the README's job."""
    engine, trainer = (str(installed / "bin" / name) for name in ("engine", "trainer"))
    given = ["--set", "prompts.source=hh-harmless.jsonl.gz", "--set", "model.name=stories260K"]
    _run([engine, "precompute", "dpo", "-o", "runs/hh", *given], cwd=elsewhere)
    assert "pairs" in _run([engine, "status", "runs/hh"], cwd=elsewhere)
    query = "select count(*), avg(ref_chosen_logps - ref_rejected_logps) from pairs"
    assert "avg" in _run([engine, "sql", "runs/hh", query], cwd=elsewhere)
    said = _run([trainer, "run", "dpo", "-o", "runs/hh", "--set", "train.max_steps=2"], cwd=elsewhere)
    assert "step 0: loss 0.693147" in said


def test_the_sandbox_finds_its_model_there(installed, elsewhere):
    python = str(installed / "bin" / "python")
    prompts = elsewhere / "runs" / "sandbox" / "prompts.jsonl"
    prompts.parent.mkdir(parents=True, exist_ok=True)
    prompts.write_text(_run([python, "-m", "pipelines.sandbox.world", "8", "1"], cwd=elsewhere))
    small = ["--set", "generate.n=2", "--set", "generate.max_tokens=40", "--set", "prompts.shards=1"]
    words = [str(installed / "bin" / "engine"), "precompute", "sandbox", "-o", "runs/demo", *small]
    said = _run(words, cwd=elsewhere)
    assert str(installed) in said and "pipelines/sandbox/model" in said


def test_help_comes_at_once(installed, elsewhere):
    """In less than 0.3 seconds of a core: the clock would count what else the machine does."""
    took: list[float] = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _run([str(installed / "bin" / "engine"), "--help"], cwd=elsewhere)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(took) < 0.3, took
