"""Caches and trainings, made side by side in processes of one thread. What is there is not made again."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipelines.evidence.arms import Arm
from pipelines.evidence.setting import SEARCH_SEEDS, SEARCH_TEST_SEED, TEST_SEED, Setting, folder_of
from schemas.screen import say

MEASURED = "measured"  # beside the trainings of a variant: what their policies are worth
_LOG = "workers.log"
Job = tuple[Any, ...]


@dataclass(frozen=True)
class Made:
    """A training and what was measured of it.

    `folder`: of the training; `samples`, `margins`: paths of Parquet files, by the step of the checkpoint;
    `seconds`: of training, and of measuring."""

    folder: Path
    samples: dict[int, Path]
    margins: dict[int, Path]
    seconds: tuple[float, float]


def seed_folder(out: Path, seed: int) -> Path:
    """Where a seed's cache and trainings lie."""
    if seed in SEARCH_SEEDS:
        return out / f"search-{SEARCH_SEEDS.index(seed)}"
    return out / f"seed-{seed}"


def all_of(
    what: str, function: Callable[..., Any], jobs: Sequence[Job], out: Path, workers: int
) -> list[Any]:
    """The results of function(*job) for each job, in order, with a line now and then of how far it is."""
    if not jobs:
        return []
    begun = time.monotonic()
    results: dict[int, Any] = {}
    with _pool(out, min(workers, len(jobs))) as pool:
        futures: dict[Future[Any], int] = {}
        for number, job in enumerate(jobs):
            futures[pool.submit(function, *job)] = number
        last = begun
        try:
            for future in as_completed(futures):
                results[futures[future]] = future.result()
                now = time.monotonic()
                if now - last > 60 or len(results) == len(jobs):
                    last = now
                    left = (now - begun) / len(results) * (len(jobs) - len(results))
                    say(f"{what}: {len(results)} of {len(jobs)}, {left / 60:.0f} min left")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [results[number] for number in range(len(jobs))]


@contextlib.contextmanager
def _pool(out: Path, workers: int) -> Any:
    """Processes of one thread, whose lines go to a log."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    try:
        log = str(out / _LOG)
        with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (log,)) as pool:
            yield pool
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _begin(log: str) -> None:
    """A worker: what it prints goes to the log."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def make_cache(out: Path, seed: int, variants: Sequence[str], setting: Setting) -> None:
    """In a worker: a seed's cache and variants."""
    from pipelines.evidence import caches

    caches.make(seed_folder(out, seed), seed, variants, setting)


def train_and_measure(out: Path, seed: int, arm: Arm, setting: Setting, margins: bool = False) -> Made:
    """In a worker: train an arm with a seed, and measure what came of it; `margins`: these, too."""
    import torch

    from schemas.recipe import load
    from trainer.train import train

    torch.set_num_threads(1)
    run = seed_folder(out, seed) / folder_of(arm.variant)
    begun = time.monotonic()
    last = train(run, load(run / "recipe.toml", arm.settings()))
    seconds = time.monotonic() - begun
    checkpoints = {_step_of(last): last}
    if arm.checkpoints:
        checkpoints = {_step_of(path): path for path in last.parent.glob("checkpoint-*")}
    return _measured(last.parent, checkpoints, _Measuring(seed, setting, margins), seconds)


def measure_reference(out: Path, seed: int, setting: Setting, samples: int) -> Path:
    """In a worker: what the reference answers, with so many samples of each problem; a Parquet file."""
    import torch

    from pipelines.evidence import measure

    torch.set_num_threads(1)
    path = seed_folder(out, seed) / MEASURED / f"reference-{samples}-{setting.test_problems}.parquet"
    if not path.exists():
        asked = _asked(seed, setting)
        write_frame(measure.samples_of(measure.reference(), asked, seed, samples), path)
    return path


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _asked(seed: int, setting: Setting) -> Any:
    from pipelines.evidence.measure import Asked

    if seed in SEARCH_SEEDS:
        return Asked(SEARCH_TEST_SEED, setting.search_problems)
    return Asked(TEST_SEED, setting.test_problems)


@dataclass(frozen=True)
class _Measuring:
    """What is measured of a training with a seed; `margins`: beside its samples."""

    seed: int
    setting: Setting
    margins: bool


def _measured(folder: Path, checkpoints: dict[int, Path], what: _Measuring, seconds: float) -> Made:
    """What the checkpoints of a training are worth, measured where it was not yet.

    `seconds`: of the training. These and those of measuring are kept from the first time."""
    asked = _asked(what.seed, what.setting)
    place = folder.parent / MEASURED
    name = f"{folder.name}-{asked.count}x{what.setting.samples}"
    samples: dict[int, Path] = {}
    margins: dict[int, Path] = {}
    begun = time.monotonic()
    for step, checkpoint in sorted(checkpoints.items()):
        samples[step] = place / f"{name}-{step}-samples.parquet"
        wanted = [samples[step]]
        if what.margins:
            margins[step] = place / f"{name}-{step}-margins.parquet"
            wanted.append(margins[step])
        if not all(path.exists() for path in wanted):
            _measure(checkpoint, samples[step], margins.get(step), what)
    train_seconds = _first_time(place / f"{folder.name}.json", seconds)
    measure_seconds = _first_time(place / f"{name}.json", time.monotonic() - begun)
    return Made(folder, samples, margins, (train_seconds, measure_seconds))


def _first_time(clock: Path, seconds: float) -> float:
    """The seconds that a file keeps from the first time."""
    if not clock.exists():
        clock.write_text(json.dumps(seconds))
    return float(json.loads(clock.read_text()))


def _measure(checkpoint: Path, samples: Path, margins: Path | None, what: _Measuring) -> None:
    from pipelines.evidence import measure

    policy = measure.opened(checkpoint)
    asked = _asked(what.seed, what.setting)
    if not samples.exists():
        write_frame(measure.samples_of(policy, asked, what.seed, what.setting.samples), samples)
    if margins is not None:
        write_frame(measure.margins_of(policy, asked, what.seed), margins)


def write_frame(frame: Any, path: Path) -> None:
    """A Parquet file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}.new")
    frame.write_parquet(new)
    new.rename(path)
