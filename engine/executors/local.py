"""Shards on this machine: in this process, or in worker processes, one shard through all stages at a time each.

The driver holds the queue and gives a shard only to a worker that asked for one. A worker that is killed is an error with its shard's
number, never a wait; a worker whose driver is gone ends itself.
"""

import functools
import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from pathlib import Path

from engine.models import Model, devices, open_model
from engine.stage import Run, make, plan
from schemas.errors import UserError
from schemas.manifest import Marker
from schemas.recipe import Recipe

Report = Callable[[str, object], None]  # ("rows", responses done) or ("shard", (stage, marker))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def execute(run: Run, shards: Iterable[int], workers: int, report: Report) -> None:
    """Makes these shards; `workers` 0 is one for each device."""
    queue = list(shards)
    places = devices(run.recipe.section("model").device) if workers != 1 and "model" in run.recipe.sections else ["auto"]
    workers = min(workers or len(places), len(queue))
    if workers > 1:
        _in_workers(run, queue, [places[number % len(places)] for number in range(workers)], report)
        return
    model = _opener(run, "auto", cores(), report)
    for shard in queue:
        make(run, shard, model, lambda stage, marker: report("shard", (stage.name, marker)))


def _opener(run: Run, device: str, threads: int, report: Report) -> Callable[[], Model]:
    """Opens the model at the first call: a run that needs none loads none."""
    planned = next((stage.facts["model"] for stage in run.planned.values() if "model" in stage.facts), None)

    @functools.cache
    def opened() -> Model:
        import torch

        torch.set_num_threads(threads)
        place = devices(run.recipe.section("model").device)[0] if device == "auto" else device
        return open_model(run.recipe, place, lambda done: report("rows", done), planned)

    return opened


def _in_workers(run: Run, queue: list[int], places: list[str], report: Report) -> None:
    context = mp.get_context("spawn")
    workers: dict[Connection, tuple[mp.process.BaseProcess, list[int]]] = {}
    threads = max(1, cores() // len(places))
    try:
        for place in places:
            ours, theirs = context.Pipe()
            folders = [planned.folder for planned in run.planned.values()]
            process = context.Process(target=_work, args=(theirs, run.path, run.recipe, folders, place, threads), daemon=True)
            process.start()
            theirs.close()
            workers[ours] = (process, [])
        waiting = iter(queue)
        while workers:
            for pipe in wait(list(workers)):
                assert isinstance(pipe, Connection)
                process, at_work = workers[pipe]
                try:
                    kind, value = pipe.recv()
                    if kind == "next":
                        at_work[:] = [shard] if (shard := next(waiting, None)) is not None else []
                        pipe.send(shard)
                except (EOFError, BrokenPipeError, ConnectionResetError):
                    process.join()
                    where = f" at shard {at_work[0]}" if at_work else ""
                    raise UserError(f"worker {process.pid} ended{where} ({_cause(process.exitcode)}); finished shards are kept: run the same command to go on") from None
                if kind == "error":
                    raise value
                if kind != "next":
                    report(kind, value)
                elif not at_work:
                    process.join()
                    del workers[pipe]
    finally:
        for process, _ in workers.values():
            process.kill()
            process.join()


def _cause(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}; most often the machine was out of memory: fewer --workers, or a smaller logprobs.batch_tokens" if name == "SIGKILL" else name


def _work(pipe: Connection, path: Path, recipe: Recipe, folders: list[str], place: str, threads: int) -> None:
    """A worker: asks for shards until there are none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    threading.Thread(target=_end_with_driver, daemon=True).start()
    try:
        run = plan(path, recipe)
        if [planned.folder for planned in run.planned.values()] != folders:
            raise UserError("the input or the model changed while the run was starting; run the same command again")
        model = _opener(run, place, threads, lambda kind, value: pipe.send((kind, value)))

        def done(stage, marker: Marker) -> None:
            pipe.send(("shard", (stage.name, marker)))

        while True:
            pipe.send(("next", None))
            shard = pipe.recv()
            if shard is None:
                return
            make(run, shard, model, done)
    except UserError as error:
        pipe.send(("error", error))
    except (EOFError, BrokenPipeError):
        return  # the driver is gone


def _end_with_driver() -> None:
    parent = mp.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
