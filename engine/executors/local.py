"""Shards on this machine: in this process, or in worker processes, one for each place where a copy of the model runs.

Work goes in phases: stages that follow each other and use one model (or none) take a shard together from the first to the last; a stage that
uses another model, or another backend, begins the next phase, when all shards are through this one. So one model at a time is in memory, each
is loaded once, and no shard waits for what it does not need.

A worker with vLLM keeps several shards under way in threads: the requests of the next ones fill the engine while the last long answers of this
one finish. The driver holds the queue and gives a shard only to a worker that asked for one. A worker that is killed is an error with its
shard's number, never a wait; a worker whose driver is gone ends itself.
"""

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_pipes
from pathlib import Path

from engine.models import Model, Uses, open_model, places
from engine.stage import Run, Stage, make, plan
from schemas.devices import cores
from schemas.errors import UserError
from schemas.manifest import Marker
from schemas.recipe import Recipe

Report = Callable[[str, object], None]  # ("rows", responses done) or ("shard", (stage, marker))
_SHARDS_UNDER_WAY = 3  # in a worker with vLLM


@dataclass(frozen=True)
class Phase:
    """Stages that follow each other and share a model."""

    stages: tuple[Stage, ...]
    use: Uses | None


def phases(run: Run) -> list[Phase]:
    found: list[Phase] = []
    for stage in run.stages:
        use = stage.uses(run.recipe) if stage.uses else None
        last = found[-1] if found else None
        if last and (
            use is None
            or last.use is None
            or (use.config, use.backend) == (last.use.config, last.use.backend)
        ):
            both = (
                replace(use, batch_tokens=use.batch_tokens or last.use.batch_tokens)
                if use and last.use
                else last.use or use
            )
            found[-1] = Phase((*last.stages, stage), both)
        else:
            found.append(Phase((stage,), use))
    return found


def execute(run: Run, gaps: dict[int, list[Stage]], workers: int, report: Report) -> None:
    """Makes the stages that the shards lack; `workers` 0 is one for each place."""
    for number, phase in enumerate(phases(run)):
        queue = [shard for shard, stages in sorted(gaps.items()) if set(stages) & set(phase.stages)]
        if not queue:
            continue
        # To count GPUs imports torch: not for one shard, nor where all that the model makes is there.
        asked = any(stage.uses for shard in queue for stage in gaps[shard] if stage in phase.stages)
        found = places(phase.use) if phase.use and asked and workers != 1 and len(queue) > 1 else ["auto"]
        wanted = min(workers or len(found), len(queue))
        if phase.use and phase.use.backend == "vllm":
            wanted = min(wanted, len(found))  # one engine a place: a second would find no memory
        if wanted > 1:
            _in_workers(run, number, queue, [found[place % len(found)] for place in range(wanted)], report)
        else:
            waiting = iter(queue)
            _work_through(run, phase, "auto", cores(), lambda: next(waiting, None), report)


def _work_through(
    run: Run, phase: Phase, place: str, threads: int, next_shard: Callable[[], int | None], report: Report
) -> None:
    """Shards through a phase until there are no more; the model is opened at the first need and closed at the end."""
    model = _Opener(run, phase, place, threads, report)
    lock, stop = threading.Lock(), threading.Event()

    def done(stage: Stage, marker: Marker) -> None:
        report("shard", (stage.name, marker))

    def one_after_another() -> None:
        while not stop.is_set():
            with lock:
                shard = next_shard()
            if shard is None:
                return
            try:
                make(run, shard, phase.stages, model, done)
            except BaseException:
                stop.set()
                model.close()  # what other threads wait for fails now
                raise

    try:
        if phase.use is None or phase.use.backend != "vllm":
            one_after_another()
            return
        with ThreadPoolExecutor(_SHARDS_UNDER_WAY) as pool:
            under_way = [pool.submit(one_after_another) for _ in range(_SHARDS_UNDER_WAY)]
            try:
                # With a time-out: polars installs its own handler of Ctrl-C, under which a wait without one is not interrupted.
                while wait(under_way, timeout=0.5).not_done:
                    pass
            except BaseException:
                stop.set()
                model.close()
                raise
        errors = [error for future in under_way if (error := future.exception())]
        if errors:
            raise model.first_error or errors[0]
    finally:
        model.close()


class _Opener:
    """Opens a phase's model at the first call; a phase that comes to need none loads none."""

    def __init__(self, run: Run, phase: Phase, place: str, threads: int, report: Report):
        self._run, self._use, self._place, self._threads, self._report = (
            run,
            phase.use,
            place,
            threads,
            report,
        )
        self._lock, self._model, self._closed = threading.Lock(), None, False
        self.first_error: BaseException | None = None

    def __call__(self, stage: Stage) -> Model:
        assert self._use is not None, f"[{stage.name}] opens a model and says that it uses none"
        with self._lock:
            if self._closed:
                raise UserError("stopped")
            if self._model is None:
                place = places(self._use)[0] if self._place == "auto" else self._place
                planned = self._run.planned[stage.name].facts["model"]
                self._model = open_model(
                    self._use, place, self._threads, lambda done: self._report("rows", done), planned
                )
            return self._model

    def close(self) -> None:
        import sys

        with self._lock:
            self.first_error = self.first_error or sys.exc_info()[1]
            self._closed, model, self._model = True, self._model, None
        if model is not None:
            model.close()


def _in_workers(run: Run, phase: int, queue: Collection[int], where: list[str], report: Report) -> None:
    context = mp.get_context("spawn")
    workers: dict[Connection, tuple[mp.process.BaseProcess, list[int]]] = {}
    threads = max(1, cores() // len(where))
    folders = [planned.folder for planned in run.planned.values()]
    try:
        for place in where:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, run.path, run.recipe, folders, phase, place, threads)
            )
            process.start()
            theirs.close()
            workers[ours] = (process, [])
        waiting = iter(queue)
        while workers:
            for pipe in wait_for_pipes(list(workers)):
                assert isinstance(pipe, Connection)
                process, at_work = workers[pipe]
                try:
                    kind, value = pipe.recv()
                    if kind == "next":
                        if (shard := next(waiting, None)) is not None:
                            at_work.append(shard)
                        pipe.send(shard)
                except (EOFError, BrokenPipeError, ConnectionResetError):
                    process.join()
                    where_to = f" at shard {', '.join(map(str, at_work))}" if at_work else ""
                    raise UserError(
                        f"worker {process.pid} ended{where_to} ({_cause(process.exitcode)}); finished shards are kept: run the same command to go on"
                    ) from None
                if kind == "error":
                    raise value
                if kind == "through":
                    at_work.remove(value)
                elif kind == "end":
                    process.join()
                    del workers[pipe]
                elif kind != "next":
                    report(kind, value)
    finally:
        for process, _ in workers.values():
            process.kill()
            process.join()


def _cause(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return (
        f"{name}; most often the machine was out of memory: fewer --workers, or a smaller logprobs.batch_tokens"
        if name == "SIGKILL"
        else name
    )


def _work(
    pipe: Connection, path: Path, recipe: Recipe, folders: list[str], phase: int, place: str, threads: int
) -> None:
    """A worker: asks for shards until there are none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    threading.Thread(target=_end_with_driver, daemon=True).start()
    sending, held = threading.Lock(), threading.local()

    def send(kind: str, value: object) -> None:
        with sending:
            pipe.send((kind, value))

    def next_shard() -> int | None:
        if getattr(held, "shard", None) is not None:
            send("through", held.shard)
        with sending:
            pipe.send(("next", None))
        held.shard = pipe.recv()
        return held.shard

    try:
        run = plan(path, recipe)
        if [planned.folder for planned in run.planned.values()] != folders:
            raise UserError(
                "the input or the model changed while the run was starting; run the same command again"
            )
        _work_through(run, phases(run)[phase], place, threads, next_shard, send)
        send("end", None)
    except UserError as error:
        send("error", error)
    except (EOFError, BrokenPipeError):
        return  # the driver is gone


def _end_with_driver() -> None:
    parent = mp.parent_process()
    assert parent is not None
    wait_for_pipes([parent.sentinel])
    os._exit(1)
