"""A rank that is stopped, or hangs, in a pass or while one saves: the other one ends and names it.

Under FSDP every pass is a collective call; while rank 0 saves, the others wait for it.
"""

import os
import shutil
import signal
import time

import pytest

from tests.faulty import Fault
from tests.reliability.ranks import At, halt, hang, on_ranks
from tests.reliability.training import Trained, recipe_of

_TIMEOUT = 3  # train.timeout here
_LINES = "metrics.jsonl"
_CHECKPOINT = "checkpoint-2"
_KIND = "a rank that is stopped or hangs, in a pass or while one saves"


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def shared(request, tmp_path_factory, model_path):
    more = {"train__timeout": _TIMEOUT, "train__parallel": request.param, "model__device": "cpu"}
    recipe = recipe_of(tmp_path_factory, model_path, **more)
    return Trained(tmp_path_factory.mktemp("shared"), recipe)


def has_ended(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def kill_once_ended(pids, halted):
    """Kill the rank that does not end by itself, after the other one has ended."""
    until = time.monotonic() + 50
    while not has_ended(pids[1 - halted]) and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(pids[halted], signal.SIGKILL)


def goes_on(shared, run):
    statuses, said = on_ranks(run, shared.recipe, [Fault(), Fault()])
    assert statuses == [0, 0], said


@pytest.mark.long
@pytest.mark.parametrize(
    ("what", "deed", "file"),
    [
        ("stopped at a step", halt, _LINES),
        ("stopped while it saves", halt, _CHECKPOINT),
        ("hanging with Python's lock held", hang, _LINES),
    ],
)
def test_the_first_rank_halts(what, deed, file, shared, trials, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(shared.cache, run)
    number = 3 if file == _LINES else 1
    with trials(_KIND) as trial, trial(f"rank 0 {what}"):
        statuses, said = on_ranks(
            run,
            shared.recipe,
            [At(number, deed, file), Fault()],
            deed=lambda pids: kill_once_ended(pids, 0),
        )
        assert statuses == [-signal.SIGKILL, 1], (statuses, said)
        silent = "rank 0 has given no sign of life"
        if deed is halt:  # it holds the store, which a thread of C keeps up where Python hangs
            silent = "rank 0 on 127.0.0.1, which holds the ranks' common store, has not answered"
        assert f"rank 1: error: {silent} for {_TIMEOUT} s" in said[1]
        goes_on(shared, run)


@pytest.mark.long
@pytest.mark.parametrize(("what", "file"), [("at a step", _LINES), ("while rank 0 saves", _CHECKPOINT)])
def test_the_second_rank_is_stopped(what, file, shared, trials, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(shared.cache, run)
    there = tmp_path / "there"

    def wait_there():
        there.touch()
        time.sleep(1)

    def stop_the_second(pids):
        until = time.monotonic() + 50
        while not there.exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(pids[1], signal.SIGSTOP)
        kill_once_ended(pids, 1)

    number = 3 if file == _LINES else 1
    with trials(_KIND) as trial, trial(f"rank 1 stopped {what}"):
        statuses, said = on_ranks(
            run, shared.recipe, [At(number, wait_there, file), Fault()], deed=stop_the_second
        )
        assert statuses == [1, -signal.SIGKILL], (statuses, said)
        assert f"rank 0: error: rank 1 has given no sign of life for {_TIMEOUT} s" in said[0]
        goes_on(shared, run)
