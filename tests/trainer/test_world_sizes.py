"""A run goes on with other numbers of ranks in the same numbers, with the same one in the same bytes."""

import json
import os
import shutil
import signal
import time

import pytest

from tests.conftest import tree
from tests.faulty import Fault
from tests.reliability.ranks import At, on_ranks, tell
from tests.reliability.training import Trained, recipe_of

_SETTINGS = {
    "train__max_steps": 6,
    "train__save_every": 0,
    "train__eval_every": 3,
    "train__batch_size": 5,
    "model__device": "cpu",
}
# Adam divides a gradient by its own size: where that is near nothing, rounding is all there is.
_NEAR = {"rel": 1e-5, "abs": 1e-6}
_LINES = "metrics.jsonl"


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def alone(request, tmp_path_factory, model_path):
    """A run of one rank that nothing happened to."""
    recipe = recipe_of(tmp_path_factory, model_path, **_SETTINGS, train__parallel=request.param)
    return Trained(tmp_path_factory.mktemp("alone"), recipe)


def lines_of(run):
    text = next(run.glob(f"train-*/{_LINES}")).read_text()
    return [json.loads(line) for line in text.splitlines()]


def wait_for_line(run, steps):
    """Wait until some steps are on record."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if any(len(path.read_text().splitlines()) > steps for path in run.glob(f"train-*/{_LINES}")):
            return
        time.sleep(0.01)
    pytest.fail("it made no step")


@pytest.mark.long
def test_one_then_two_then_three_ranks_make_the_numbers_of_one(alone, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(alone.cache, run)
    # Told at the line of step 2; and at that of the evaluation at step 3, so that all know of it at step 4.
    for ranks, line, saved in ((1, 3, 2), (2, 2, 4)):
        others = [Fault() for _ in range(ranks - 1)]
        statuses, said = on_ranks(run, alone.recipe, [At(line, tell, _LINES), *others])
        assert statuses == [143] * ranks, said
        assert f"SIGTERM: checkpoint-{saved} of 6 steps is saved" in said[0]
        assert not any(said[1:]), said
    statuses, said = on_ranks(run, alone.recipe, [Fault(), Fault(), Fault()])
    assert statuses == [0, 0, 0] and "from step 4 on" in said[0], said
    found, wanted = lines_of(run), lines_of(alone.path)
    assert len(found) == len(wanted) == 9
    for here, there in zip(found, wanted, strict=True):
        assert here == pytest.approx(there, **_NEAR)


@pytest.mark.long
def test_two_ranks_told_or_killed_end_in_the_same_bytes_and_only_the_first_writes(alone, tmp_path):
    """One rank alone is told, the one that does not write; the other one saves all the same."""
    whole = tmp_path / "whole"
    shutil.copytree(alone.cache, whole)
    # The second rank's store fails at its first write, so it makes none.
    statuses, said = on_ranks(whole, alone.recipe, [Fault(), Fault(1)])
    assert statuses == [0, 0], said
    for sign, wanted in ((signal.SIGTERM, [143, 143]), (signal.SIGKILL, [1, -signal.SIGKILL])):
        run = tmp_path / sign.name
        shutil.copytree(alone.cache, run)

        def to_second(pids, run=run, sign=sign):
            wait_for_line(run, 1)
            os.kill(pids[1], sign)

        # A run that is over before it is told proves nothing: the first rank waits at a line.
        slow = At(4, lambda: time.sleep(3), _LINES)
        statuses, said = on_ranks(run, alone.recipe, [slow, Fault(1)], deed=to_second)
        assert statuses == wanted, said
        assert "Traceback" not in "".join(said)
        assert sign == signal.SIGTERM or "error: another rank has ended" in said[0]
        statuses, said = on_ranks(run, alone.recipe, [Fault(), Fault()])
        assert statuses == [0, 0], said
        assert tree(run) == tree(whole)
