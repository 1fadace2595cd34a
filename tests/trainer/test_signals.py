"""SIGTERM saves the step under way and ends training with 143; the same command ends in the same bytes."""

import json
import os
import shutil
import signal
import time

import pytest

from schemas import signals
from schemas.errors import exit_on_user_error
from schemas.store import LocalStore
from tests.faulty import FaultyStore
from tests.reliability.ranks import At, ended, tell
from tests.reliability.training import Trained, recipe_of
from trainer.train import train

# A checkpoint is due at step 3 and at the end, an evaluation at the steps 2, 4 and 5.
_SETTINGS = {"train__max_steps": 5, "train__save_every": 3, "train__keep": 1, "train__eval_every": 2}
_LINES = "metrics.jsonl"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model_path):
    recipe = recipe_of(tmp_path_factory, model_path, **_SETTINGS)
    return Trained(tmp_path_factory.mktemp("whole"), recipe)


def told_at(number, run, recipe):
    """The exit status of a training that is sent SIGTERM at a write; 0 where it ends as if it was not."""
    store = FaultyStore(LocalStore(run), At(number, tell))
    try:
        with exit_on_user_error("the last checkpoint is kept"):
            train(store, recipe)
    except SystemExit as error:
        return error.code
    return 0


def lines_written(whole):
    """The number of each write that adds a line to the record."""
    return [number for number, what in enumerate(whole.writes, 1) if what.endswith(_LINES)]


def lines_of(run):
    """The record of a run."""
    text = next(run.glob(f"train-*/{_LINES}")).read_text()
    return [json.loads(line) for line in text.splitlines()]


def steps_of(run):
    """The steps of the checkpoints in a run."""
    return sorted(int(path.name[11:]) for path in run.glob("train-*/checkpoint-*"))


@pytest.mark.long
def test_told_at_any_line_it_saves_the_step_and_goes_on_to_the_same_bytes(whole, tmp_path, capsys):
    """Also where that step has a checkpoint anyway, and where an evaluation is due and left out."""
    numbers = lines_written(whole)
    assert len(numbers) == 9  # five steps, four evaluations
    for number in numbers:
        run = tmp_path / str(number)
        shutil.copytree(whole.cache, run)
        assert told_at(number, run, whole.recipe) == 143
        saved = lines_of(run)[-1]["step"]
        assert steps_of(run) == ([3, 4] if saved == 4 else [saved])
        assert f"SIGTERM: checkpoint-{saved} of 5 steps is saved" in capsys.readouterr().out
        whole.again(run)


def test_the_evaluation_that_is_due_is_left_to_the_run_that_goes_on(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole.cache, run)
    step_2 = lines_written(whole)[2]  # after an evaluation and the first step
    assert told_at(step_2, run, whole.recipe) == 143
    last = lines_of(run)[-1]
    assert last["step"] == 2 and "eval_loss" not in last and steps_of(run) == [2]
    whole.again(run)


@pytest.mark.long
def test_the_checkpoint_of_a_signal_takes_the_place_of_none(whole, tmp_path, capsys):
    """The one that was due before it stays, as where nothing came; and the extra one goes afterwards."""
    run = tmp_path / "run"
    shutil.copytree(whole.cache, run)
    step_4 = lines_written(whole)[5]
    assert told_at(step_4, run, whole.recipe) == 143
    assert steps_of(run) == [3, 4]
    assert "SIGTERM: checkpoint-4 of 5 steps is saved" in capsys.readouterr().out
    whole.again(run)


@pytest.mark.long
def test_every_checkpoint_kept_does_not_keep_the_extra_one(whole, tmp_path_factory, model_path, tmp_path):
    recipe = recipe_of(tmp_path_factory, model_path, **_SETTINGS | {"train__keep": 0})
    kept = Trained(tmp_path / "kept", recipe)
    run = tmp_path / "run"
    shutil.copytree(kept.cache, run)
    assert told_at(lines_written(kept)[1], run, recipe) == 143
    assert steps_of(run) == [1]
    kept.again(run)
    assert steps_of(run) == [3, 5]


def test_without_save_on_signal_nothing_is_saved(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole.cache, run)
    section = whole.recipe.sections["train"]
    recipe = type(whole.recipe)(
        whole.recipe.sections | {"train": type(section)(**vars(section) | {"save_on_signal": False})},
        whole.recipe.seed,
    )
    assert told_at(lines_written(whole)[1], run, recipe) == 143
    assert steps_of(run) == [] and "stopped; the last checkpoint is kept" in capsys.readouterr().err


@pytest.mark.parametrize(("same", "status"), [(0.0, 143), (60.0, 5)])
def test_a_second_sigterm_ends_at_once(same, status, tmp_path, monkeypatch):
    """But not one that comes within moments: torchrun passes on what Slurm has sent to its ranks as well."""
    monkeypatch.setattr(signals, "_SAME", same)
    told = tmp_path / "told"
    pid = os.fork()
    if pid == 0:
        try:
            with signals.ended_by_signals(), signals.sigterm_put_off():
                while not signals.told_to_end():
                    time.sleep(0.01)
                told.touch()
                time.sleep(1.5)
                os._exit(5)
        finally:
            os._exit(7)
    time.sleep(0.3)
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 20
    while not told.exists() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.05)
    os.kill(pid, signal.SIGTERM)
    assert ended(pid, time.monotonic() + 20) == status


def test_a_signal_at_the_very_end_is_not_lost():
    """What comes after the last look ends the command when SIGTERM is put off no more."""
    with pytest.raises(signals.Stopped), signals.ended_by_signals(), signals.sigterm_put_off():
        tell()
