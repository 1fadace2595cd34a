"""What the others have lost: a rank that never comes, torchrun itself, the store. None of it hangs a rank."""

import os
import signal
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch.distributed

from schemas.errors import UserError
from schemas.store import open_store
from trainer import dist, heartbeat
from trainer.commands.run import training_recipe
from trainer.evaluate import evaluate
from trainer.heartbeat import Heartbeat
from trainer.launcher import Watch
from trainer.train import train


def store(port=0, **more):
    limit = timedelta(seconds=5)
    return torch.distributed.TCPStore("127.0.0.1", port, is_master=not port, timeout=limit, **more)


@pytest.fixture
def one_of_two(monkeypatch):
    """This process is a rank of two, under a torchrun that holds the store; the other has not come."""
    held = store(wait_for_workers=False)
    monkeypatch.setattr(dist, "_COMING", 0.3)
    for name, value in {
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": held.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
    }.items():
        monkeypatch.setenv(name, str(value))
    yield
    dist.stop()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_never_comes_is_named(rank, made_run, one_of_two, trials, monkeypatch):
    """Training says that it goes on; measuring a policy, which has nothing to go on from, does not."""
    monkeypatch.setenv("RANK", str(rank))
    run = open_store(made_run)
    recipe = training_recipe(str(made_run / "recipe.toml"), run, ["train.timeout=1"])
    with trials("a rank that is stopped before it has come") as trial:
        for what in ("run", "eval"):
            with trial(f"{what}, without rank {1 - rank}"):
                begun = time.monotonic()
                with pytest.raises(UserError, match=f"rank {1 - rank} has not come after 1 s") as raised:
                    if what == "run":
                        train(run, recipe)
                    else:
                        evaluate(run, recipe, made_run)
                assert time.monotonic() - begun < 20
                assert ("goes on from the last checkpoint" in str(raised.value)) == (what == "run")


def rank_of_a_launcher(under_torchrun):
    """What a rank says and does after its launcher was killed. It would end by itself after a second."""
    reading, writing = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        started_by = os.getpid()
        if os.fork() == 0:
            os.dup2(writing, 2)
            sys.stderr = os.fdopen(2, "w")
            os.environ.pop("TORCHELASTIC_RUN_ID", None)
            if under_torchrun:
                os.environ["TORCHELASTIC_RUN_ID"] = "none"
            Watch("run it again", started_by).start()
            os.write(writing, b"begun\n")
            time.sleep(1)
            os.write(writing, b"still here\n")
            os._exit(0)
        time.sleep(60)
        os._exit(0)
    os.close(writing)
    said = os.read(reading, 6)
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    while part := os.read(reading, 1000):
        said += part
    os.close(reading)
    return said.decode(), launcher


def test_the_ranks_of_a_torchrun_that_was_killed_end(trials):
    """They say so. A rank that a shell or mpirun started may outlive it."""
    with trials("torchrun killed, its ranks left") as trial:
        with trial("torchrun"):
            said, launcher = rank_of_a_launcher(under_torchrun=True)
            assert f"error: torchrun (process {launcher}) has ended" in said and "still here" not in said
        with trial("another launcher"):
            assert rank_of_a_launcher(under_torchrun=False)[0] == "begun\nstill here\n"


@pytest.mark.parametrize("is_over", [False, True])
def test_a_store_that_is_gone_ends_the_rank_unless_the_run_is_over(is_over, trials, monkeypatch):
    said = []
    ended = threading.Event()
    monkeypatch.setattr(heartbeat, "end", lambda problem: (said.append(problem), ended.set()))
    monkeypatch.setattr(heartbeat, "_GRACE", 0.5)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    held = store(wait_for_workers=False)
    beating = Heartbeat(store(held.port), rank=0, world_size=1, limit=1, again="run it again")
    with trials("the ranks' common store gone") as trial, trial(f"the run is over: {is_over}"):
        beating.start(1)
        del held
        if is_over:
            time.sleep(0.2)
            beating.stop()
        assert ended.wait(0.7 if is_over else 10) != is_over
        assert said == ([] if is_over else ["torchrun has ended, and this rank ends with it; run it again"])
    beating.stop()
