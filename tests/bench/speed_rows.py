"""What all parts of `speed.py` share: a row of the result, and how its processes are started."""

import os
import subprocess
import sys

from speed_works import ROOT

QUIET = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
}
CORES = sorted(os.sched_getaffinity(0))


def row_of(work: str, ratio: float, goal: float | None, at_least: bool = False) -> dict:
    """A row; `ok` says whether the goal is met, which is a ratio of at most it unless `at_least`."""
    met = goal is None or (ratio >= goal if at_least else ratio <= goal)
    return {"work": work, "ratio": float(f"{ratio:.3g}"), "goal": goal, "ok": met}


def line_of(row: dict) -> str:
    """A row as it is printed for people."""
    goal = ""
    if row["goal"] is not None:
        verdict = "met" if row["ok"] else "MISSED"
        goal = f"goal {row['goal']:g} {verdict}"
    return f"{row['work']:<76} {row['ratio']:>9g}  {goal}"


def call(*words: object, cores: int = 1) -> str:
    """Run a Python script or module to its end on the first so many cores; returns its output."""
    env = os.environ | QUIET | {"PYTHONPATH": str(ROOT)}
    places = ",".join(map(str, CORES[:cores]))
    written = list(map(str, words))
    done = subprocess.run(
        ["taskset", "-c", places, sys.executable, *written],
        env=env,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(written)} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    return done.stdout
