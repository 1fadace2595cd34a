"""Shards on this machine: in this process, or in worker processes, one for each place of a model.

The driver holds the queue and gives a shard only to a worker that asked for one. A worker that is killed is
an error with its shard's number, never a wait; a worker whose driver is gone ends itself. A worker is given
the planned run and does not plan again.
"""

import importlib
import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_pipes
from multiprocessing.process import BaseProcess

from engine.executors.phases import Gaps, NextShard, Phase, phases, work_through
from engine.models.open import places
from engine.plan import Run
from engine.progress import Progress, Work
from schemas import extensions
from schemas.devices import cores
from schemas.errors import UserError
from schemas.manifest import Marker


def execute(run: Run, gaps: Gaps, workers: int, progress: Progress) -> None:
    """Make the stages that the shards lack, phase by phase. See `engine.executors.Executor`."""
    for number, phase in enumerate(phases(run)):
        queue = _queue(gaps, phase)
        if not queue:
            continue
        where = _places_of_workers(run, phase, queue, gaps, workers)
        if len(where) > 1:
            driver = _Driver(
                run=run,
                phase=number,
                queue=queue,
                where=where,
                progress=progress,
            )
            driver.run()
        else:
            work_through(
                run=run,
                phase=phase,
                place="auto",
                threads=cores(),
                next_shard=_one_by_one(queue),
                progress=progress,
            )


def _one_by_one(queue: Sequence[int]) -> NextShard:
    """Gives one shard after another, then None."""
    shards = iter(queue)
    return lambda: next(shards, None)


def _queue(gaps: Gaps, phase: Phase) -> list[int]:
    """The shards that lack a stage of the phase."""
    return [shard for shard in sorted(gaps) if set(gaps[shard]) & set(phase.stages)]


def _places_of_workers(run: Run, phase: Phase, queue: Sequence[int], gaps: Gaps, workers: int) -> list[str]:
    """A place for each worker; `workers` 0 is one for each place there is."""
    available = ["auto"]
    if phase.asks_server:
        return available  # one process: so many requests are under way as the recipe says
    # Counting GPUs imports torch; skip it for one shard or when no model is needed.
    if phase.model and workers != 1 and len(queue) > 1 and _needs_model(run, phase, queue, gaps):
        available = places(phase.model.spec)
    wanted = min(workers or len(available), len(queue))
    if phase.uses_vllm:
        # One engine a place: a second would find no memory.
        wanted = min(wanted, len(available))
    return [available[number % len(available)] for number in range(wanted)]


def _needs_model(run: Run, phase: Phase, queue: Sequence[int], gaps: Gaps) -> bool:
    """True if a stage that is still to be made opens the model."""
    for shard in queue:
        for stage in gaps[shard]:
            if stage.name in run.models and stage in phase.stages:
                return True
    return False


# What workers and driver say to each other. A worker says what it wants and what came of it; progress
# (_ShardMade, Work) is apart.


@dataclass(frozen=True)
class _NextShard:
    """The worker wants a shard; the driver answers with its number, or None where there are no more."""


@dataclass(frozen=True)
class _ShardEnded:
    """The worker is through with a shard."""

    shard: int


@dataclass(frozen=True)
class _Failed:
    """The worker ends because of an error that the user is to read."""

    error: UserError


@dataclass(frozen=True)
class _Ended:
    """The worker has no more to do."""


@dataclass(frozen=True)
class _ShardMade:
    """Progress: a stage of a shard is written."""

    stage: str
    marker: Marker


@dataclass
class _Worker:
    """A worker process as the driver knows it."""

    process: BaseProcess
    shards: list[int] = field(default_factory=list)  # that it has in its hands


class _Driver:
    """Gives the shards of a phase out to workers and listens to them until all have ended."""

    def __init__(self, run: Run, phase: int, queue: Sequence[int], where: Sequence[str], progress: Progress):
        self._run = run
        self._phase = phase
        self._shards: Iterator[int] = iter(queue)
        self._where = where
        self._progress = progress
        self._workers: dict[Connection, _Worker] = {}

    def run(self) -> None:
        """Raises UserError where a worker fails or is killed; no worker is left behind."""
        try:
            self._start()
            while self._workers:
                for pipe in wait_for_pipes(list(self._workers)):
                    assert isinstance(pipe, Connection)
                    self._listen(pipe)
        finally:
            for worker in self._workers.values():
                worker.process.kill()
                worker.process.join()

    def _start(self) -> None:
        context = mp.get_context("spawn")
        threads = max(1, cores() // len(self._where))
        for place in self._where:
            ours, theirs = context.Pipe()
            arguments = (theirs, self._run, self._phase, place, threads, extensions.packages())
            process = context.Process(target=_work, args=arguments)
            process.start()
            theirs.close()
            self._workers[ours] = _Worker(process)

    def _listen(self, pipe: Connection) -> None:
        """Take one message of a worker."""
        worker = self._workers[pipe]
        try:
            message = pipe.recv()
            if isinstance(message, _NextShard):
                shard = next(self._shards, None)
                if shard is not None:
                    worker.shards.append(shard)
                pipe.send(shard)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            worker.process.join()
            raise UserError(_obituary(worker)) from None
        match message:
            case _ShardEnded(shard):
                worker.shards.remove(shard)
            case _Failed(error):
                raise error
            case _Ended():
                worker.process.join()
                del self._workers[pipe]
            case _ShardMade(stage, marker):
                self._progress.shard_done(stage, marker)
            case Work():
                self._progress.work(message)


def _obituary(worker: _Worker) -> str:
    """What to tell the user of a worker that ended before its work did."""
    shards = ", ".join(map(str, worker.shards))
    where = f" at shard {shards}" if shards else ""
    return (
        f"worker {worker.process.pid} ended{where} ({_cause(worker.process.exitcode)}); "
        "finished shards are kept: run the same command to go on"
    )


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


# In a worker's process.


def _work(pipe: Connection, run: Run, phase: int, place: str, threads: int, packages: Sequence[str]) -> None:
    """Ask for shards until there are none. `packages`: those that hand over prompts and SQL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    threading.Thread(target=_end_with_driver, daemon=True).start()
    line = _LineToDriver(pipe)
    for package in packages:
        importlib.import_module(package)
    try:
        work_through(
            run=run,
            phase=phases(run)[phase],
            place=place,
            threads=threads,
            next_shard=line.next_shard,
            progress=line,
        )
        line.send(_Ended())
    except UserError as error:
        line.send(_Failed(error))
    except (EOFError, BrokenPipeError):
        return  # the driver is gone


class _LineToDriver:
    """The worker's end of the pipe; implements Progress. Several threads use it."""

    def __init__(self, pipe: Connection):
        self._pipe = pipe
        self._sending = threading.Lock()
        self._of_thread = threading.local()

    def send(self, message: object) -> None:
        with self._sending:
            self._pipe.send(message)

    def next_shard(self) -> int | None:
        """The next shard for this thread, whose last one is ended by asking. One thread at a time asks."""
        last = getattr(self._of_thread, "shard", None)
        if last is not None:
            self.send(_ShardEnded(last))
        self.send(_NextShard())
        shard: int | None = self._pipe.recv()
        self._of_thread.shard = shard
        return shard

    def shard_done(self, stage: str, marker: Marker) -> None:
        self.send(_ShardMade(stage, marker))

    def work(self, work: Work) -> None:
        self.send(work)


def _end_with_driver() -> None:
    """End this process when its driver is gone."""
    parent = mp.parent_process()
    assert parent is not None
    wait_for_pipes([parent.sentinel])
    os._exit(1)
