"""Shards on this machine: in this process, or in worker processes, one for each place of a model.

The driver holds the queue and gives a shard only to a worker that asked for one. A worker that is killed, or
that gives no sign of life, is an error with its shard's number, never a wait; a worker whose driver is gone
ends itself. A worker is given the planned run and does not plan again.
"""

import contextlib
import multiprocessing as mp
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from engine.executors.phases import Gaps, Phase, phases, work_through
from engine.executors.worker import Failed, NextShard, NoMoreWork, ShardEnded, ShardMade, work
from engine.listening import TICK, Ended, Inbox, Ticks
from engine.models.open import places
from engine.plan import Run
from engine.progress import Progress, Work
from schemas import extensions
from schemas.devices import cores
from schemas.errors import UserError

# Seconds of silence after which a worker is stopped or hung: a thread of its own gives the signs of life.
SILENCE = 120.0
_TIME_TO_START = 600.0  # seconds until the first one: a network disk may be slow to give what is imported
_TIME_TO_END = 10.0  # seconds for a worker that has said its last


def execute(run: Run, gaps: Gaps, workers: int, threads: int, progress: Progress) -> None:
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
                threads=_threads_at(where, threads),
                progress=progress,
            )
            driver.run()
        else:
            work_through(
                run=run,
                phase=phase,
                place="auto",
                threads=_threads_at(where, threads),
                next_shard=_one_by_one(queue),
                progress=progress,
            )


def _threads_at(where: Sequence[str], threads: int) -> int:
    """Of each worker. On a CPU so many as the run says, however many workers there are: numbers depend on it.
    Beside a GPU what there is, shared."""
    if where[0] == "auto" or where[0].startswith("cpu"):
        return threads
    return max(1, cores() // len(where))


def _one_by_one(queue: Sequence[int]) -> Callable[[], int | None]:
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


@dataclass
class _Worker:
    """A worker process as the driver knows it."""

    process: BaseProcess
    shards: list[int] = field(default_factory=list)  # that it has in its hands
    silent: float = 0.0  # seconds since its last sign of life
    has_spoken: bool = False


class _Driver:
    """Gives the shards of a phase out to workers and listens to them until all have ended."""

    def __init__(
        self,
        run: Run,
        phase: int,
        queue: Sequence[int],
        where: Sequence[str],
        threads: int,
        progress: Progress,
    ):
        self._run = run
        self._phase = phase
        self._shards: Iterator[int] = iter(queue)
        self._where = where
        self._threads = threads
        self._progress = progress
        self._workers: dict[Connection, _Worker] = {}
        self._inbox = Inbox()

    def run(self) -> None:
        """Raises UserError where a worker fails, is killed or is silent; no worker is left behind."""
        try:
            self._start()
            ticks = Ticks()
            while self._workers:
                heard = self._inbox.next(TICK)
                self._count_silence(ticks.seconds())
                if heard is not None:
                    self._take(*heard)
        finally:
            for worker in self._workers.values():
                worker.process.kill()
                worker.process.join()

    def _start(self) -> None:
        context = mp.get_context("spawn")
        for place in self._where:
            ours, theirs = context.Pipe()
            arguments = (theirs, self._run, self._phase, place, self._threads, extensions.packages())
            process = context.Process(target=work, args=arguments)
            process.start()
            theirs.close()
            self._workers[ours] = _Worker(process)
            self._inbox.listen(ours)

    def _count_silence(self, seconds: float) -> None:
        """Raise UserError where a worker has been silent for too long."""
        for worker in self._workers.values():
            worker.silent += seconds
            limit = SILENCE if worker.has_spoken else _TIME_TO_START
            if worker.silent > limit:
                raise UserError(_obituary(worker, f"it gave no sign of life for {limit:g} s"))

    def _take(self, pipe: Connection, message: object) -> None:
        """Take one message of a worker."""
        worker = self._workers.get(pipe)
        if worker is None:
            return  # it has said its last
        worker.silent = 0.0
        worker.has_spoken = True
        match message:
            case Ended():
                raise UserError(_obituary(worker, _cause(_exit_code(worker.process))))
            case NextShard():
                self._give_shard(pipe, worker)
            case ShardEnded(shard):
                worker.shards.remove(shard)
            case Failed(error):
                raise error
            case NoMoreWork():
                _exit_code(worker.process)
                del self._workers[pipe]
            case ShardMade(stage, marker):
                self._progress.shard_done(stage, marker)
            case Work():
                self._progress.work(message)

    def _give_shard(self, pipe: Connection, worker: _Worker) -> None:
        shard = next(self._shards, None)
        if shard is not None:
            worker.shards.append(shard)
        # Where the worker is dead, its end comes as the next message.
        with contextlib.suppress(OSError):
            pipe.send(shard)


def _exit_code(process: BaseProcess) -> int | None:
    """The exit code of a process that has said its last; it is killed where it does not end by itself."""
    process.join(_TIME_TO_END)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def _obituary(worker: _Worker, cause: str) -> str:
    """What to tell the user of a worker that ended, or hangs, before its work was done."""
    shards = ", ".join(map(str, worker.shards))
    where = f" at shard {shards}" if shards else ""
    return (
        f"worker {worker.process.pid} ended{where} ({cause}); "
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
