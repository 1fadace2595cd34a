"""Weights & Biases, by its own environment variables: WANDB_PROJECT, WANDB_MODE, WANDB_API_KEY …

- The run's id is the train folder's fingerprint, so a run that goes on after a kill continues the same one.
- Without a login, or where its server is not reached within `_PATIENCE` seconds, the curves are written
  offline, in the train folder's wandb/, and `wandb sync` sends them later.
- Offline, a run that goes on writes all of its record anew, and the folders from before are removed: one
  folder holds everything once. Online, the server has the steps up to some one; only later ones are sent.
- What is printed stays ours: W&B does not get the terminal's text.
"""

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.tracking import Answer, Say, Tracked, Values

_PROJECT = "prefmill"
_FOLDER = "wandb"
_PATIENCE = 20.0  # seconds to wait for the server at the start
_AT_END = 60.0  # seconds to wait for what is not sent yet, or not on the disk


class Wandb:
    """Implements trainer.tracking.Tracker. Steps before `first` are there already."""

    def __init__(self, run: Any, first: int, say: Say):
        self._run = run
        self._first = first
        self._say = say

    def write(self, step: int, values: Values) -> None:
        if step >= self._first:
            self._run.log(dict(values), step=step)

    def show(self, step: int, answers: Sequence[Answer]) -> None:
        import wandb

        if step < self._first or not answers:
            return
        columns: list[str | int] = list(answers[0])
        rows = [list(answer.values()) for answer in answers]
        self._run.log({"eval_samples": wandb.Table(columns=columns, data=rows)}, step=step)

    def close(self, finished: bool) -> None:
        try:
            self._run.finish(exit_code=0 if finished else 1)
        except TimeoutError:
            folder = Path(self._run.dir).parent
            self._say(
                f"W&B has not got everything within {_AT_END:g} s: `wandb sync {folder}` sends the rest"
            )


def start(run: Tracked) -> Wandb:
    """Open the run, online if it can be, else offline, and bring it to what the record holds."""
    import wandb

    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    opened: Any
    before = _names(run, "run-*")
    with _asking_nothing():
        try:
            opened = _init(run)
        except (wandb.Error, TimeoutError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            run.say(f"W&B is not reached ({lines[0]}): its curves are written offline")
            wandb.teardown()  # of what holds the run's id
            _remove(run, _names(run, "run-*") - before)  # what it has begun
            opened = _init(run, mode="offline")
    first = 0 if opened.offline else opened.starting_step
    tracker = Wandb(opened, first, run.say)
    for past in run.past:
        tracker.write(past.step, past.values)
        if past.answers:
            tracker.show(past.step, past.answers)
    if opened.offline:
        kept = Path(opened.dir).parent
        _remove(run, _names(run, "offline-run-*") - {kept.name})  # the one that is kept holds it all
        run.say(f"W&B offline: `wandb sync {kept}` sends the curves")
    elif not opened.disabled:
        run.say(f"W&B: {opened.url}")
    return tracker


def _init(run: Tracked, mode: str | None = None) -> Any:
    """wandb.init for the run; `mode` None is what the environment says."""
    import wandb

    quiet = wandb.Settings(
        silent=True,
        console="off",
        symlink=False,  # a run folder holds no links
        init_timeout=_PATIENCE,
        finish_timeout=_AT_END,
        finish_timeout_raises=True,
    )
    resume = None if mode == "offline" else "allow"
    return wandb.init(
        dir=str(run.folder.local_path()),
        project=os.environ.get("WANDB_PROJECT") or _PROJECT,
        name=run.name,
        id=_id_of(run),
        resume=resume,  # type: ignore[arg-type]
        mode=mode,  # type: ignore[arg-type]
        config={**run.facts, "steps": run.total},
        settings=quiet,
    )


def _id_of(run: Tracked) -> str:
    """The fingerprint in the train folder's name."""
    return run.name.rpartition("-")[2]


@contextlib.contextmanager
def _asking_nothing() -> Iterator[None]:
    """Let W&B find no terminal to ask for a key on: it raises an error instead."""
    before = sys.stdin
    sys.stdin = io.StringIO()
    try:
        yield
    finally:
        sys.stdin = before


def _names(run: Tracked, pattern: str) -> set[str]:
    """The folders that W&B has made for this run, those of one kind."""
    return set(run.folder.child(_FOLDER).names(f"{pattern}-{_id_of(run)}"))


def _remove(run: Tracked, names: set[str]) -> None:
    """Remove folders that W&B has made for this run."""
    for name in sorted(names):
        run.folder.child(_FOLDER).remove_folder(name)
