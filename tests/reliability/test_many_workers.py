"""However many workers and commands make a run, and whichever of them are killed: the same bytes.

A kill costs each worker the shard that it had in hand, and nothing else.
"""

import multiprocessing as mp
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.commands.precompute import precompute
from schemas.recipe import load
from tests.conftest import ROOT, settings, tree

SHARDS = 12
_RECIPE = f"[model]\n[prompts]\nshards = {SHARDS}\n[given]\n[generate]\nn = 2\nmax_tokens = 40\n[logprobs]\n"


@pytest.fixture(scope="module")
def words(tmp_path_factory, model_path) -> list[str]:
    """A recipe's file, and its settings: pairs that are given, and samples beside them."""
    folder = tmp_path_factory.mktemp("recipe")
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(120):
            file.write(f'{{"prompt": "{number}", "chosen": "yes {number}", "rejected": "no {number}"}}\n')
    (folder / "recipe.toml").write_text(_RECIPE)
    return [
        str(folder / "recipe.toml"),
        *settings(prompts__source=folder / "rows.jsonl", model__name=model_path),
    ]


@pytest.fixture(scope="module")
def recipe(words):
    return load(words[0], [word for word in words[1:] if word != "--set"])


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> dict[str, bytes]:
    """The files of a run by two workers that nothing happened to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    precompute(run, recipe, 2)
    return tree(run)


class Killer:
    """Kills processes at random moments, once there is a first shard, until it is stopped."""

    def __init__(self, run: Path, victims, kills: int, seed: int):
        self.killed: list[int] = []
        self._run = run
        self._victims = victims
        self._kills = kills
        self._draw = random.Random(seed)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._go)

    def __enter__(self) -> "Killer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _go(self) -> None:
        while not self._stopped.is_set() and len(self.killed) < self._kills:
            # Two deaths at most between two shards: three with the same one in hand end a run.
            made = len(list(self._run.glob("generate-*/0*.json")))
            if made > len(self.killed):
                victims = self._victims()
                if victims:
                    victim = self._draw.choice(victims)
                    os.kill(victim, signal.SIGKILL)
                    self.killed.append(victim)
            time.sleep(self._draw.uniform(0.02, 0.3))


def workers_here() -> list[int]:
    return [process.pid for process in mp.active_children() if process.pid is not None]


def workers_of(commands: list[subprocess.Popen]) -> list[int]:
    """The worker processes of other commands: spawned children, not the tracker of their resources."""
    found: list[int] = []
    for command in commands:
        try:
            children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
            for child in children:
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        except OSError:
            continue
    return found


@pytest.mark.long
@pytest.mark.parametrize("workers", [2, 3])
def test_workers_that_are_killed_cost_a_shard_each(trials, recipe, whole, workers, tmp_path, capsys, caplog):
    """With the threads of two workers, so that every sum is in the same order."""
    run = tmp_path / "run"
    with trials("a worker that is killed") as trial, trial(f"{workers} workers"):
        if workers != 2:
            precompute(run, recipe, 2, part="0::6")
        with Killer(run, workers_here, kills=4, seed=workers) as killer:
            precompute(run, recipe, workers)
        assert tree(run) == whole
        assert killer.killed, "nothing was killed"
        for pid in killer.killed:
            said = re.findall(rf"worker {pid} ended(?: at shard ([\d, ]+))? \(SIGKILL", caplog.text)
            assert len(said) <= 1, "one death is told once"
            assert all(shards.count(",") == 0 for shards in said), "more than one shard was lost"


def command(words: list[str], run: Path, part: str) -> subprocess.Popen:
    """A command that shares a run, with two workers of its own."""
    more = ["-o", str(run), "--shards", part, "--workers", "2"]
    return subprocess.Popen(
        [sys.executable, "-m", "engine.cli", "precompute", *words, *more],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.long
def test_commands_that_share_a_run_and_are_killed_make_the_same_bytes(trials, words, whole, tmp_path):
    """Two parts beside each other: their workers are killed at random, then one of the commands itself."""
    run = tmp_path / "run"
    with trials("commands that share a run") as trial, trial("0::2 beside 1::2"):
        both = [command(words, run, "0::2"), command(words, run, "1::2")]
        with Killer(run, lambda: workers_of(both), kills=3, seed=5) as killer:
            while not list(run.glob("logprobs-*/0*.json")) and any(one.poll() is None for one in both):
                time.sleep(0.05)
            both[1].kill()
            both[1].communicate()
            _, said = both[0].communicate(timeout=300)
        assert both[0].returncode == 0, said
        again = command(words, run, "1::2")
        _, said = again.communicate(timeout=300)
        assert again.returncode == 0, said
        assert killer.killed
        assert tree(run) == whole
        assert not list(run.glob("claim-*")) and not list(run.glob("job-*")) and not list(run.glob("lease-*"))
