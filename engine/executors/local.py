"""Shards on this machine: in this process, or in worker processes, one for each place of a model.

A worker that is killed, or that gives no sign of life, costs its shards, which are dealt again, and another
one takes its place; a worker whose driver is gone ends itself. A worker is given the planned run and does not
plan again.
"""

import contextlib
import logging
import multiprocessing as mp
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from engine.executors.claimed import ClaimedShards
from engine.executors.deal import DEATHS, Deal, Room
from engine.executors.phases import Gaps, Phase, phases, work_through
from engine.executors.worker import Failed, NextShard, NoMoreWork, ShardEnded, ShardMade, work
from engine.listening import TICK, Ended, Inbox, Ticks
from engine.models.open import places
from engine.plan import Run
from engine.progress import Progress, Work
from schemas import extensions
from schemas.devices import cores, gpus_here
from schemas.errors import UserError

# Seconds of silence after which a worker is stopped or hung: a thread of its own gives the signs of life.
SILENCE = 120.0
_TIME_TO_START = 600.0  # seconds until the first one: a network disk may be slow to give what is imported
_TIME_TO_END = 10.0  # seconds for a worker that has said its last
_log = logging.getLogger("prefmill")


def room() -> Room:
    """A worker for each GPU of this machine, or one for its CPU."""
    return Room(gpus_here())


def execute(
    run: Run,
    phase: int,
    shards: ClaimedShards,
    gaps: Gaps,
    workers: int,
    threads: int,
    progress: Progress,
) -> None:
    """Take the shards through a phase. See `engine.executors.Executor`."""
    number = phase
    own_phase = phases(run)[number]
    where = _places_of_workers(run, own_phase, shards.left(), gaps, workers)
    threads = _threads_at(where, threads)
    if len(where) > 1:
        _Driver(run, number, shards, where, threads, progress).run()
    else:
        work_through(run, own_phase, where[0], threads, shards, progress)


def _threads_at(where: Sequence[str], threads: int) -> int:
    """Of each worker. On a CPU so many as the run says, however many workers there are: numbers depend on it.
    Beside a GPU what there is, shared."""
    if where[0] == "auto" or where[0].startswith("cpu"):
        return threads
    return max(1, cores() // len(where))


def _places_of_workers(run: Run, phase: Phase, shards: int, gaps: Gaps, workers: int) -> list[str]:
    """A place for each worker, where so many shards are to be made; `workers` 0 is one for each place."""
    available = ["auto"]
    if phase.asks_server:
        return available  # one process: so many requests are under way as the recipe says
    # Counting GPUs imports torch; skip it for one shard or when no model is needed.
    if phase.model and shards > 1 and needs_model(run, phase, gaps):
        available = places(phase.model.spec)
    wanted = min(workers or len(available), shards)
    if phase.uses_vllm:
        # One engine a place: a second would find no memory.
        wanted = min(wanted, len(available))
    return [available[number % len(available)] for number in range(wanted)]


def needs_model(run: Run, phase: Phase, gaps: Gaps) -> bool:
    """True if a stage that is still to be made opens the model."""
    for stages in gaps.values():
        for stage in stages:
            if stage.name in run.models and stage in phase.stages:
                return True
    return False


@dataclass
class _Worker:
    """A worker process as the driver knows it."""

    process: BaseProcess
    place: str
    silent: float = 0.0  # seconds since its last sign of life
    has_spoken: bool = False


class _Driver:
    """Deals the shards of a phase out to workers and listens to them until all have ended."""

    def __init__(
        self,
        run: Run,
        phase: int,
        shards: ClaimedShards,
        where: Sequence[str],
        threads: int,
        progress: Progress,
    ):
        self._run = run
        self._phase = phase
        self._where = where
        self._threads = threads
        self._progress = progress
        self._deal: Deal[Connection] = Deal(shards)
        self._workers: dict[Connection, _Worker] = {}
        self._inbox = Inbox()
        self._idle_deaths = 0  # of workers, one after another, that had no shard in hand

    def run(self) -> None:
        """Raises UserError where a shard cannot be made; no worker is left behind."""
        try:
            for place in self._where:
                self._start(place)
            ticks = Ticks()
            while self._workers:
                heard = self._inbox.next(TICK)
                self._count_silence(ticks.seconds())
                if heard is not None:
                    self._take(*heard)
                self._give()
        finally:
            for worker in self._workers.values():
                worker.process.kill()
                worker.process.join()

    def _start(self, place: str) -> None:
        context = mp.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self._run, self._phase, place, self._threads, extensions.packages())
        process = context.Process(target=work, args=arguments)
        process.start()
        theirs.close()
        self._workers[ours] = _Worker(process, place)
        self._deal.join(ours)
        self._inbox.listen(ours)

    def _count_silence(self, seconds: float) -> None:
        """End the workers that have been silent for too long."""
        for pipe, worker in list(self._workers.items()):
            worker.silent += seconds
            limit = SILENCE if worker.has_spoken else _TIME_TO_START
            if worker.silent > limit:
                self._replace(pipe, f"it gave no sign of life for {limit:g} s")

    def _take(self, pipe: Connection, message: object) -> None:
        """Take one message of a worker."""
        worker = self._workers.get(pipe)
        if worker is None:
            return  # it has said its last
        worker.silent = 0.0
        worker.has_spoken = True
        match message:
            case Ended():
                self._replace(pipe, _cause(_exit_code(worker.process)))
            case NextShard():
                self._deal.ask(pipe)
            case ShardEnded(shard):
                self._idle_deaths = 0
                self._deal.ended(pipe, shard)
            case Failed(error):
                raise error
            case NoMoreWork():
                _exit_code(worker.process)
                self._deal.leave(pipe)
                del self._workers[pipe]
            case ShardMade(stage, marker):
                self._progress.shard_done(stage, marker)
            case Work():
                self._progress.work(message)

    def _give(self) -> None:
        """Give shards to the workers that ask for them."""
        while (gift := self._deal.next()) is not None:
            pipe, shard = gift
            # Where the worker is dead, its end comes as the next message.
            with contextlib.suppress(OSError):
                pipe.send(shard)

    def _replace(self, pipe: Connection, cause: str) -> None:
        """End a worker that is dead or silent, and put another in its place.

        Raises UserError where workers die of a shard, or before they have one."""
        worker = self._workers.pop(pipe)
        worker.process.kill()
        worker.process.join()
        shards = self._deal.leave(pipe)
        self._idle_deaths = 0 if shards else self._idle_deaths + 1
        said = _obituary(worker, shards, cause)
        if self._deal.cause_of_deaths() is not None:
            raise UserError(
                f"{said}; {DEATHS} workers ended with it in hand; finished shards are kept: "
                "run the same command to go on"
            )
        if self._idle_deaths >= DEATHS:
            raise UserError(f"{said}, as {DEATHS} did before they had a shard; finished shards are kept")
        _log.warning("%s; another one takes its place", said)
        self._start(worker.place)


def _exit_code(process: BaseProcess) -> int | None:
    """The exit code of a process that has said its last; it is killed where it does not end by itself."""
    process.join(_TIME_TO_END)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def _obituary(worker: _Worker, shards: Sequence[int], cause: str) -> str:
    """What to tell the user of a worker that ended, or hangs, before its work was done."""
    numbers = ", ".join(map(str, shards))
    where = f" at shard {numbers}" if shards else ""
    return f"worker {worker.process.pid} ended{where} ({cause})"


def _cause(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    if name != "SIGKILL":
        return name
    return (
        f"{name}; most often the machine was out of memory: "
        "fewer --workers, or a smaller logprobs.batch_tokens"
    )
