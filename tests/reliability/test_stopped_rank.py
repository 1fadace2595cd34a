"""A rank that is stopped makes the others wait for no longer than train.timeout.

tests/reliability/test_ranks.py tries whole training runs under torchrun; this is its core, short enough for
every run of the tests.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path

from trainer import dist

_TIMEOUT = 2  # seconds of silence after which a rank is given up
_START = 30  # seconds in which two processes meet, on a busy machine
_MOMENT = 8  # seconds more until the end of a process is seen there


def forked(rank: int, port: int, said: Path) -> int:
    """A rank that meets the other one; rank 1 is then stopped, rank 0 waits for it. Returns its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        os.environ["MASTER_PORT"] = str(port)
        with said.open("w", buffering=1) as sys.stderr:
            ranks = dist.start("cpu", _TIMEOUT)
            if rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            ranks.wait()
    finally:
        os._exit(7)


def status_of(pid: int, until: float) -> int | None:
    """The exit status of a child; None where it has not ended until then."""
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def stopped(pid: int) -> bool:
    """Whether a process is under SIGSTOP."""
    return ") T " in Path(f"/proc/{pid}/stat").read_text()


def test_a_stopped_rank_is_named_and_not_waited_for(tmp_path, trials):
    """The one that waits says which, and ends with status 1."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = [tmp_path / f"rank{rank}" for rank in range(2)]
    waiting, halted = (forked(rank, port, said[rank]) for rank in range(2))
    status = None
    with trials("a rank that is stopped") as trial, trial("two ranks that meet"):
        try:
            until = time.monotonic() + _START
            while not stopped(halted):
                assert time.monotonic() < until, said[1].read_text()
                time.sleep(0.02)
            status = status_of(waiting, time.monotonic() + _TIMEOUT + _MOMENT)
        finally:
            for pid in [halted] if status is not None else [halted, waiting]:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        text = said[0].read_text()
        assert status == 1, f"rank 0 ended with {status}: {text}"
        assert f"rank 1 has given no sign of life for {_TIMEOUT} s (train.timeout)" in text
        assert "run the same command" in text and "Traceback" not in text
