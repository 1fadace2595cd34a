"""What an engine that was killed leaves in shared memory is removed; what others use is not."""

import os
import signal
import time
from multiprocessing import resource_tracker
from multiprocessing import shared_memory as python_shared_memory
from pathlib import Path

import pytest

from engine.models.vllm import process, shared_memory
from engine.models.vllm.process import EngineProcess

SHM = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not SHM.is_dir(), reason="no /dev/shm")

# An engine in place of ours: it makes a segment, a child of it another one, and it opens one of the test's.
STAND_IN = """
import os, signal, sys, time
from multiprocessing import shared_memory
signal.signal(signal.SIGTERM, signal.SIG_IGN)
shared = shared_memory.SharedMemory(name=os.environ["SHARED"], track=False) if sys.version_info >= (3, 13) \\
    else shared_memory.SharedMemory(name=os.environ["SHARED"])
kind = "child" if os.fork() == 0 else "parent"
own = shared_memory.SharedMemory(name=os.environ["NAME"] + kind, create=True, size=4096)
time.sleep(60)
"""


@pytest.fixture
def names():
    """Of the two segments of a stand-in, and of one that the test has mapped, which another process made."""
    stem = f"prefmill-test-{os.getpid()}-{time.monotonic_ns()}-"
    shared = python_shared_memory.SharedMemory(name=stem + "shared", create=True, size=4096)
    yield stem
    shared.close()
    shared.unlink()


def stand_in(monkeypatch, stem: str) -> EngineProcess:
    monkeypatch.setattr(process, "_COMMAND", STAND_IN)
    engine = EngineProcess({}, os.environ | {"NAME": stem, "SHARED": stem + "shared"})
    for _ in range(1000):
        if {stem + "child", stem + "parent"} <= shared_memory.mapped_by(engine.process.pid):
            return engine
        time.sleep(0.02)
    raise AssertionError("the stand-in made no segments")


def test_the_segments_of_an_ended_engine_are_gone_and_the_others_stay(monkeypatch, names):
    engine = stand_in(monkeypatch, names)
    foreign = SHM / f"{names}foreign"
    foreign.write_bytes(b"of nobody that is known")
    engine.end()
    assert {path.name for path in SHM.glob(f"{names}*")} == {names + "shared", names + "foreign"}
    foreign.unlink()


def test_an_engine_that_died_by_itself_leaves_none_either(monkeypatch, names):
    """Its process is gone and says nothing any more: what it had was noted when it was loaded."""
    engine = stand_in(monkeypatch, names)
    engine.note_segments()
    engine.process.kill()
    engine.process.wait()
    engine.end()
    assert {path.name for path in SHM.glob(f"{names}*")} == {names + "shared"}


def test_an_engine_that_dies_while_it_is_listened_to_leaves_none(monkeypatch, names):
    """Nobody noted what it had but the one who waited for its messages, as while it loads."""
    monkeypatch.setattr(process, "_NOTED", 0.0)
    engine = stand_in(monkeypatch, names)
    assert engine.receive(0.01) is None
    os.killpg(engine.process.pid, signal.SIGKILL)
    engine.process.wait()
    engine.end()
    assert {path.name for path in SHM.glob(f"{names}*")} == {names + "shared"}


def test_what_another_process_has_mapped_is_left_to_it(names):
    """The group asked about has no process; this one has the segment mapped, until it closes it."""
    nobody = -1
    shared_memory.release({names + "shared"}, nobody)
    assert (SHM / f"{names}shared").exists()
    own = python_shared_memory.SharedMemory(name=names + "own", create=True, size=4096)
    assert {names + "own", names + "shared"} <= shared_memory.mapped_by(os.getpgrp())
    own.close()
    shared_memory.release({names + "own", "no-such-segment"}, nobody)
    assert not (SHM / f"{names}own").exists()
    resource_tracker.unregister(f"/{names}own", "shared_memory")
