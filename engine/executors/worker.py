"""A worker's process: it asks its driver for shards and makes them, until there are none.

What driver and worker say to each other stands here as well. A worker says what it wants, what came of it,
and every two seconds that it lives; progress (ShardMade, Work) is apart.
"""

import contextlib
import importlib
import multiprocessing as mp
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_pipes
from typing import Protocol

from engine.executors.deal import Shards
from engine.executors.phases import Phase, phases, work_through
from engine.plan import Run
from engine.progress import Progress, Work
from schemas.errors import UserError, sentence_of
from schemas.manifest import Marker
from schemas.panics import panics_as_errors

BEAT = 2.0  # seconds between a worker's signs of life
_LOOK = 0.2  # seconds in which a worker that waits for a shard sees that none is wanted any more
# The driver ends its workers, also where the terminal or a scheduler tells all of them to end.
_LEFT_TO_DRIVER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class NextShard:
    """The worker wants a shard; the driver answers with its number, or None where there are no more."""


@dataclass(frozen=True)
class ShardEnded:
    """The worker has made a shard."""

    shard: int


@dataclass(frozen=True)
class Failed:
    """The worker ends because of an error that the user is to read."""

    error: UserError


@dataclass(frozen=True)
class NoMoreWork:
    """The worker has no more to do, and ends."""


@dataclass(frozen=True)
class ShardMade:
    """Progress: a stage of a shard is written."""

    stage: str
    marker: Marker


@dataclass(frozen=True)
class Alive:
    """A sign of life."""


class LineToDriver(Shards, Progress, Protocol):
    """Where a worker gets its shards from, and tells what came of them."""


def work(pipe: Connection, run: Run, phase: int, place: str, threads: int, packages: Sequence[str]) -> None:
    """Ask for shards until there are none. `packages`: those that hand over prompts and SQL."""
    for number in _LEFT_TO_DRIVER:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_driver, daemon=True).start()
    line = _LineToDriver(pipe)
    threading.Thread(target=line.beat, daemon=True).start()
    for package in packages:
        importlib.import_module(package)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the driver is gone
        line.send(last_words(run, phases(run)[phase], place, threads, line))


def last_words(run: Run, phase: Phase, place: str, threads: int, line: LineToDriver) -> NoMoreWork | Failed:
    """Make shards until there are none, and what the driver is to be told then. Raises our own mistakes."""
    try:
        with panics_as_errors():
            work_through(
                run=run,
                phase=phase,
                place=place,
                threads=threads,
                shards=line,
                progress=line,
            )
        return NoMoreWork()
    except UserError as error:
        return Failed(error)
    except (EOFError, BrokenPipeError):
        raise
    except Exception as error:
        sentence = sentence_of(error, "")
        if not sentence:
            raise  # our own mistake
        return Failed(UserError(sentence))


class _LineToDriver:
    """The worker's end of the pipe; implements Progress and Shards. Several threads use it."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._sending = threading.Lock()
        self._stopped = threading.Event()

    def send(self, message: object) -> None:
        with self._sending:
            self._pipe.send(message)

    def beat(self) -> None:
        """Give signs of life as long as there is a driver to hear them."""
        with contextlib.suppress(OSError):
            while True:
                self.send(Alive())
                time.sleep(BEAT)

    def take(self) -> int | None:
        """The next shard. One thread at a time asks."""
        self.send(NextShard())
        while not self._pipe.poll(_LOOK):
            if self._stopped.is_set():
                return None
        shard: int | None = self._pipe.recv()
        return shard

    def stop(self) -> None:
        self._stopped.set()

    def ended(self, shard: int) -> None:
        self.send(ShardEnded(shard))

    def shard_done(self, stage: str, marker: Marker) -> None:
        self.send(ShardMade(stage, marker))

    def work(self, work: Work) -> None:
        self.send(work)


def _end_with_driver() -> None:
    """End this process when its driver is gone."""
    parent = mp.parent_process()
    assert parent is not None
    wait_for_pipes([parent.sentinel])
    os._exit(1)
