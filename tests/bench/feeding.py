"""Whether the CPU stages keep engines busy, and what a second worker brings.

    python tests/bench/feeding.py [--workers 8] [--shards 64] [--seconds 2.0] [--json]
    python tests/bench/feeding.py --speed-up [--prompts 400] [--rounds 3]

The first takes `engine precompute` with [prompts], [generate], [check] and [logprobs] through stand-ins for
engines, each of which takes a set time for a shard while the CPU has nothing to do, as with a GPU. Printed is
the share of time in which an engine works: between its own first and last call (goal: 0.95 with 8 engines and
64 shards), and from the first call of all to the last answer of all; and how many shards each engine had.

The second makes a run with transformers on the sandbox's model by one worker that is held to one core, and by
two workers, each with one thread: the ratio of their times without the start of the command. Goal: 1.8.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
MODEL = ROOT / "pipelines" / "sandbox" / "model"
GOAL_BUSY = 0.95
GOAL_SPEED_UP = 1.8
_RECIPE = """
[model]
backend = "hf"
[prompts]
format = "prompts"
[generate]
n = 4
max_tokens = 96
[check]
function = "pipelines.sandbox.world:reward"
[logprobs]
"""


def write_prompts(path: Path, count: int) -> None:
    from pipelines.sandbox import world

    path.write_text("".join(json.dumps(row) + "\n" for row in world.prompts(77, count)))


def busy(workers: int, shards: int, seconds: float, rows: int) -> dict[str, object]:
    """A run by stand-ins that take `seconds` for a shard's answers; what they were doing."""
    from engine.commands.precompute import precompute
    from schemas.recipe import load
    from tests.bench import standin

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_prompts(place / "prompts.jsonl", shards * rows)
        (place / "recipe.toml").write_text(_RECIPE)
        os.environ[standin.LOG] = str(place / "busy.txt")
        os.environ[standin.SECONDS_A_ROW] = str(seconds / rows)
        os.environ[standin.ENGINES] = str(workers)
        standin.install()
        settings = [f"prompts.source={place / 'prompts.jsonl'}", f"prompts.shards={shards}"]
        precompute(place / "run", load(place / "recipe.toml", [*settings, f"model.name={MODEL}"]), workers)
        return standin.said(place / "busy.txt")


def one_run(workers: int, prompts: int) -> float:
    """Seconds from a command's first shard to its end. One worker is held to one core."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_prompts(place / "prompts.jsonl", prompts)
        (place / "recipe.toml").write_text(_RECIPE)
        command = [sys.executable, "-m", "engine.cli", "precompute", str(place / "recipe.toml")]
        command += ["-o", str(place / "run"), "--workers", str(workers), "--set", "prompts.shards=16"]
        command += ["--set", f"prompts.source={place / 'prompts.jsonl'}", "--set", f"model.name={MODEL}"]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=(lambda: os.sched_setaffinity(0, {0})) if workers == 1 else None,
        )
        while not list(place.glob("run/generate-*/0*.json")):
            assert process.poll() is None, "the run failed"
            time.sleep(0.01)
        begun = time.monotonic()
        there = len(list(place.glob("run/generate-*/0*.json")))
        assert process.wait() == 0
        # From the first shards to the end, as if all were made in that time.
        return (time.monotonic() - begun) * 16 / (16 - there)


def speed_up(prompts: int, rounds: int) -> dict[str, object]:
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, seconds in times.items():
            seconds.append(one_run(workers, prompts))
    medians = {workers: statistics.median(seconds) for workers, seconds in times.items()}
    return {"one": medians[1], "two": medians[2], "ratio": medians[1] / medians[2], "goal": GOAL_SPEED_UP}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--speed-up", action="store_true")
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.speed_up:
        found = speed_up(given.prompts, given.rounds)
    else:
        found = busy(given.workers, given.shards, given.seconds, given.rows) | {"goal": GOAL_BUSY}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
