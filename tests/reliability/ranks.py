"""Ranks of a training run as processes forked from one that has loaded everything: a second a run."""

import ctypes
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from schemas.errors import exit_on_user_error
from schemas.recipe import Recipe
from schemas.store import LocalStore
from tests.faulty import Fault, FaultyStore, Killed
from trainer.train import train

# What is done to the ranks while they train: it is given the rank that each process is.
Deed = Callable[[list[int]], object]


def on_ranks(
    run: Path,
    recipe: Recipe,
    faults: Sequence[Fault],
    seconds: float = 60,
    deed: Deed | None = None,
    apart: Mapping[int, tuple[Path, Recipe]] | None = None,
) -> tuple[list[int | str], list[str]]:
    """Train on as many ranks as there are faults; each rank's store has its own.

    `apart`: the ranks that see another run folder or are given another recipe. Returns the exit statuses and
    what was said, rank by rank."""
    given = {rank: (run, recipe) for rank in range(len(faults))} | dict(apart or {})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pids: list[int] = []
    for rank in range(len(faults)):
        pid = os.fork()
        if pid == 0:
            status = 8
            try:
                with open(said_file(run, rank), "w", buffering=1) as sys.stdout:
                    status = _as_rank(rank, len(faults), port, *given[rank], faults[rank])
            finally:
                os._exit(status)
        pids.append(pid)
    until = time.monotonic() + seconds
    if deed is not None:
        deed(pids)
    statuses = [ended(pid, until) for pid in pids]
    return statuses, [said_file(run, rank).read_text() for rank in range(len(faults))]


def said_file(run: Path, rank: int) -> Path:
    """Where a rank's words go."""
    return run.parent / f"{run.name}.rank{rank}"


def _as_rank(rank: int, ranks: int, port: int, run: Path, recipe: Recipe, fault: Fault) -> int:
    """The child's whole life; returns its exit status."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.stderr = sys.stdout
    torch.set_num_threads(1)
    try:
        with exit_on_user_error("the last checkpoint is kept"):
            train(FaultyStore(LocalStore(run), fault), recipe)
    except SystemExit as error:
        assert isinstance(error.code, int)
        return error.code
    except Killed:
        return 9
    except BaseException:
        traceback.print_exc()
        return 7
    return 0


def ended(pid: int, until: float) -> int | str:
    """The exit status of a child; one that does not end is killed, and that is a failure."""
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "did not end"


class At(Fault):
    """Something happens to the process itself before its write of this number to a file of this name."""

    def __init__(self, number: int, deed: Callable[[], object], name: str = "") -> None:
        super().__init__(number)
        self._deed = deed
        self._name = name

    def write(self, what: str, write: Callable[[], object], half: Callable[[], object]) -> object:
        if what.endswith(self._name):
            self.writes.append(what)
            if len(self.writes) == self.number:
                self._deed()
        return write()


def tell() -> None:
    """SIGTERM to this process."""
    os.kill(os.getpid(), signal.SIGTERM)


def halt() -> None:
    """SIGSTOP to this process."""
    os.kill(os.getpid(), signal.SIGSTOP)


def hang() -> None:
    """Wait in C for minutes and keep Python's lock, so that no other thread of this process runs."""
    ctypes.PyDLL(None).sleep(300)
