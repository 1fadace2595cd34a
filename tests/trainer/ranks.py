"""Functions run on several ranks at once: processes of their own on this machine, joined by gloo.

Starting them costs seconds, most of it imports. So one start serves many calls, each with a process group of
its own. A function that is run must be importable, and what it takes and returns is pickled.
"""

import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import multiprocessing

_SECONDS = 300.0  # that a call may take


class RankPool:
    """`ranks` processes that wait for something to run. The first call starts them, `close` ends them."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self._processes: list[Any] = []
        self._pipes: list[Any] = []

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What `function(*args)` returns on each rank, by rank.

        In it the environment names the ranks, as under torchrun: `trainer.dist.start` joins them. An error on
        one rank is an AssertionError here, and ends all of them."""
        if not self._processes:
            self._start()
        work = pickle.dumps((function, args, _free_port()))
        for pipe in self._pipes:
            pipe.send_bytes(work)
        try:
            return self._results()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes = []
        self._pipes = []

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for rank in range(self.ranks):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.ranks, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)

    def _results(self) -> list[Any]:
        """Take them as they come, so that a rank's error is seen while the others wait for that rank."""
        results: dict[int, Any] = {}
        deadline = time.monotonic() + _SECONDS
        while len(results) < self.ranks:
            assert time.monotonic() < deadline, f"ranks {sorted(results)} alone have ended"
            for rank, pipe in enumerate(self._pipes):
                if rank in results or not pipe.poll(0.01):
                    continue
                try:
                    result, error = pickle.loads(pipe.recv_bytes())
                except EOFError:
                    raise AssertionError(f"rank {rank} has died") from None
                assert error is None, f"on rank {rank}: {error}"
                results[rank] = result
        return [results[rank] for rank in range(self.ranks)]


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def _serve(rank: int, world_size: int, pipe: Any) -> None:
    """A rank's process: run what comes, one after another."""
    torch.set_num_threads(1)
    while True:
        try:
            work = pipe.recv_bytes()
        except EOFError:
            return
        error = None
        result = None
        try:
            function, args, port = pickle.loads(work)
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            result = function(*args)
        except BaseException:
            error = traceback.format_exc()
        pipe.send_bytes(pickle.dumps((result, error)))
