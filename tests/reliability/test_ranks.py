"""Two ranks: one that is killed or stopped ends the other soon, with a sentence; the same command goes on."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, tree
from tests.faulty import Fault, every_fault
from tests.reliability.ranks import on_ranks
from tests.reliability.training import Refusal, Trained, recipe_of

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
        shutil.rmtree(self.path)
        shutil.copytree(self.cache, self.path)
        statuses, said = on_ranks(self.path, recipe, [Fault(), Fault()])
        assert statuses == [0, 0], said
        self.want = tree(self.path)

    def again(self, run):
        statuses, said = on_ranks(run, self.recipe, [Fault(), Fault()])
        assert statuses == [0, 0], said
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
        for fault in every_fault(len(on_two.writes)):
            with trial(f"{fault.way} {on_two.writes[fault.number - 1]}"):
                run = tmp_path / "run"
                shutil.rmtree(run, ignore_errors=True)
                shutil.copytree(on_two.cache, run)
                statuses, said = on_ranks(run, on_two.recipe, [fault, Fault()])
                assert statuses[0] == 9 and statuses[1] in (0, 1), (statuses, said)
                assert "Traceback" not in said[1], said
                assert statuses[1] == 0 or "error: another rank has ended" in said[1], said
                on_two.again(run)


@pytest.mark.long
def test_errors_at_the_writes_of_two_ranks(on_two, trials, tmp_path):
    """The disk refuses rank 0 a write: one sentence, which names the file, and no rank waits."""
    with trials("training on 2 ranks refused a write by the disk") as trial:
        for number in range(1, len(on_two.writes) + 1):
            with trial(on_two.writes[number - 1]):
                run = tmp_path / "run"
                shutil.rmtree(run, ignore_errors=True)
                shutil.copytree(on_two.cache, run)
                statuses, said = on_ranks(run, on_two.recipe, [Refusal(number, errno.ENOSPC), Fault()])
                assert statuses == [1, 1], (statuses, said)
                assert f"error: {run}" in said[0] and "Traceback" not in "".join(said), said
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


@pytest.mark.long
@pytest.mark.parametrize("told", ["torchrun", "rank 1", "all of them"])
def test_sigterm_under_torchrun(told, made_run, trials, tmp_path):
    """The step under way is saved, whoever gets the signal; torchrun passes it on, Slurm sends it to all."""
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    words = ["trainer.cli", "run", run / "recipe.toml", "-o", run]
    for setting in ("batch_size=8", "save_every=50", "max_steps=60"):
        words += ["--set", f"train.{setting}"]
    with trials("SIGTERM to ranks under torchrun") as trial, trial(told):
        process = torchrun(*words)
        try:
            until = time.monotonic() + 90
            while not list(run.glob("train-*/metrics.jsonl")) and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(1)
            ranks = ranks_of(process)
            pids = {"torchrun": [process.pid], "rank 1": [ranks[1]]}
            for pid in pids.get(told, [process.pid, *ranks.values()]):
                os.kill(pid, signal.SIGTERM)
            said, _ = process.communicate(timeout=90)
        finally:
            process.kill()
        assert process.returncode == 1, said
        assert said.count("is saved; run the same command") == 1 and "stopped;" not in said, said
        assert "Traceback" not in said.partition("SIGTERM: ")[0], said
        saved = re.search("SIGTERM: checkpoint-([0-9]+) of 60 steps", said)[1]
        process = torchrun(*words)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and f"60 steps of 8 pairs, from step {saved} on" in said, said
        assert len(list(run.glob("train-*/checkpoint-*"))) == 2
