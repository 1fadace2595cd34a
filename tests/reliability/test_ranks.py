"""Two ranks: one that is killed or stopped ends the other soon, with a sentence; the same command goes on."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from schemas.recipe import dump
from tests.conftest import ROOT, tree
from tests.faulty import WAYS
from tests.reliability.training import Trained, recipe_of

_TIMEOUT = 5  # train.timeout here


def torchrun(*words):
    """Two ranks of a module under torchrun, which runs on; its output is one text."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            *map(str, words),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ranks_of(process):
    """The process of each rank."""
    found: dict[int, int] = {}
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout
    for pid in map(int, children.split()):
        with open(f"/proc/{pid}/environ", "rb") as file:
            for word in file.read().split(b"\0"):
                if word.startswith(b"RANK="):
                    found[int(word[5:])] = pid
    return found


class OnTwoRanks(Trained):
    """A run of two ranks that nothing happened to."""

    def __init__(self, folder, recipe):
        super().__init__(folder, recipe)
        # Another number of ranks ends in the same numbers up to rounding, not in the same bytes.
        (folder / "given.toml").write_bytes(dump(recipe))
        shutil.rmtree(self.path)
        shutil.copytree(self.cache, self.path)
        said = self.run(self.path, 0, "half")
        self.writes = [line[7:] for line in said.splitlines() if line.startswith("write: ")]
        self.want = tree(self.path)

    def run(self, run, number, way, code=0):
        """The same command with a fault; returns what was printed."""
        recipe_file = self.path.parent / "given.toml"
        process = torchrun("tests.reliability.faulty_training", run, recipe_file, number, way)
        said, _ = process.communicate(timeout=120)
        assert (process.returncode == 0) == (code == 0), said
        return said

    def again(self, run):
        self.run(run, 0, "half")
        found = tree(run)
        assert found.keys() == self.want.keys()
        differing = [name for name in found if found[name] != self.want[name]]
        assert not differing, f"other bytes: {differing}"


@pytest.fixture(scope="module")
def on_two(tmp_path_factory, model_path):
    recipe = recipe_of(tmp_path_factory, model_path, train__timeout=_TIMEOUT, model__device="cpu")
    return OnTwoRanks(tmp_path_factory.mktemp("two"), recipe)


@pytest.mark.long
def test_crashes_at_the_writes_of_two_ranks(on_two, trials, tmp_path):
    """Rank 0 ends at a write: the other ends with a sentence, and the same command ends in the same bytes."""
    with trials("training on 2 ranks killed at a write") as trial:
        for number in range(1, len(on_two.writes) + 1):
            way = WAYS[number % 2]
            with trial(f"{way} {on_two.writes[number - 1]}"):
                run = tmp_path / str(number)
                shutil.copytree(on_two.cache, run)
                said = on_two.run(run, number, way, code=1)
                assert "Traceback" not in of_ranks(said), said
                on_two.again(run)


@pytest.mark.long
def test_errors_at_the_writes_of_two_ranks(on_two, trials, tmp_path):
    """The disk refuses rank 0 a write: one sentence, which names the file, and no rank waits."""
    with trials("training on 2 ranks refused a write") as trial:
        for number in range(2, len(on_two.writes) + 1, 3):
            with trial(on_two.writes[number - 1]):
                run = tmp_path / str(number)
                shutil.copytree(on_two.cache, run)
                said = of_ranks(on_two.run(run, number, "ENOSPC", code=1))
                assert f"error: {run}" in said and "Traceback" not in said, said
                on_two.again(run)


def of_ranks(said):
    """What the ranks said, without what torchrun says when one has ended."""
    return said.partition("torch/distributed/elastic")[0]


def at_work(run, process):
    """Wait until a checkpoint of this run has been made."""
    until = time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        if list(run.glob("train-*/checkpoint-*[0-9]")):
            return
        time.sleep(0.02)
    pytest.fail("it made no step")


@pytest.mark.long
@pytest.mark.parametrize(("sign", "rank"), [("STOP", 0), ("STOP", 1), ("KILL", 0), ("KILL", 1)])
def test_a_rank_that_is_stopped_or_killed(sign, rank, made_run, trials, tmp_path):
    """The other ranks end soon and say so; the same command then goes on from the last checkpoint."""
    kinds = {"STOP": "a rank that is stopped", "KILL": "a rank that is killed"}
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    words = ["trainer.cli", "run", run / "recipe.toml", "-o", run]
    for setting in ("batch_size=8", "save_every=4", "max_steps=60", f"timeout={_TIMEOUT}"):
        words += ["--set", f"train.{setting}"]
    with trials(kinds[sign]) as trial, trial(f"rank {rank}"):
        process = torchrun(*words)
        try:
            at_work(run, process)
            begun = time.monotonic()
            os.kill(ranks_of(process)[rank], getattr(signal, f"SIG{sign}"))
            # torchrun itself waits for half a minute before it kills a rank that is stopped.
            said, _ = process.communicate(timeout=90)
        finally:
            process.kill()
        assert process.returncode == 1 and time.monotonic() - begun < _TIMEOUT + 45
        if sign == "STOP":
            assert f"rank {1 - rank}: error: rank {rank} has given no sign of life for {_TIMEOUT} s" in said
        assert "Traceback" not in of_ranks(said), said
        if (sign, rank) == ("STOP", 1):
            process = torchrun(*words)
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0 and re.search("60 steps of 8 pairs, from step [0-9]+ on", said), (
                said
            )
