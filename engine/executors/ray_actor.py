"""A worker of a Ray cluster: an actor that holds one model, and makes shards in a thread of its own.

A node must have the driver's code, and see the run's folder: both are looked at before it gets a shard. What
an actor tells waits until its driver asks for news (engine/executors/ray.py).
"""

import contextlib
import hashlib
import importlib
import logging
import os
import pickle
import queue
import socket
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import made_with
from engine.executors.phases import Phase, phases
from engine.executors.worker import BEAT, Failed, NextShard, NoMoreWork, ShardEnded, ShardMade, last_words
from engine.models.open import places
from engine.plan import Run
from engine.progress import Work
from schemas import extensions
from schemas.devices import cores
from schemas.errors import UserError
from schemas.manifest import Marker


def code_here() -> str:
    """A digest of this code, and of the prompts and SQL that come with it."""
    house = Path(__file__).resolve().parents[2]
    files = [*(house / "engine").rglob("*.py"), *(house / "schemas").rglob("*.py")]
    for folder in extensions.folders():
        files += [*folder.glob("sql/*"), *folder.glob("prompts/*")]
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.parts[-4:]):
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class Task:
    """What an actor is given: a phase by its number, and its GPUs of the most that a node has.

    `threads`: of a model on the CPU; `jobs`: files of the run that are there as long as the driver lives."""

    run: Run
    phase: int
    gpus: int
    gpus_of_a_node: int
    threads: int
    jobs: Sequence[str]


@dataclass(frozen=True)
class Here:
    """The actor is ready. `libraries`: stage -> those of its rows on this node, with their versions."""

    node: str
    libraries: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Said:
    """What the actor logs, for the user to read."""

    level: int
    text: str


@dataclass(frozen=True)
class Broken:
    """The actor ended by a mistake of ours."""

    traceback: str


class Actor:
    """Makes shards in a thread of its own. Implements LineToDriver; what it tells waits to be fetched."""

    def __init__(self, task: bytes, code: str, packages: Sequence[str], folder: str):
        """`code`: of `code_here`; `folder`: the driver's current one, for relative paths."""
        self._news: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._shards: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._node = socket.gethostname()
        work = threading.Thread(target=self._work, args=(task, code, packages, folder), daemon=True)
        work.start()

    def listen(self) -> list[object]:
        """What is new, as soon as there is something; after a while nothing, as a sign of life."""
        news: list[object] = []
        with contextlib.suppress(queue.Empty):
            news.append(self._news.get(timeout=BEAT))
            while True:
                news.append(self._news.get_nowait())
        return news

    def give(self, shard: int | None) -> None:
        """The answer to NextShard."""
        self._shards.put(shard)

    def take(self) -> int | None:
        self._news.put(NextShard())
        return self._shards.get()

    def ended(self, shard: int) -> None:
        self._news.put(ShardEnded(shard))

    def stop(self) -> None:
        self._shards.put(None)

    def shard_done(self, stage: str, marker: Marker) -> None:
        self._news.put(ShardMade(stage, marker))

    def work(self, work: Work) -> None:
        self._news.put(work)

    def _work(self, task: bytes, code: str, packages: Sequence[str], folder: str) -> None:
        try:
            self._news.put(self._last_words(task, code, packages, folder))
        except UserError as error:
            self._news.put(Failed(error))
        except BaseException:
            self._news.put(Broken(traceback.format_exc()))

    def _last_words(
        self, task: bytes, code: str, packages: Sequence[str], folder: str
    ) -> NoMoreWork | Failed:
        for package in packages:
            importlib.import_module(package)
        if code_here() != code:
            raise UserError(
                f"node {self._node} has another version of prefmill than this machine: "
                "install the same one on all nodes, and restart Ray there"
            )
        if os.path.isdir(folder):
            os.chdir(folder)
        own: Task = pickle.loads(task)
        if not any(own.run.store.exists(name) for name in own.jobs):
            raise UserError(
                f"node {self._node} does not see {own.run.store}, which this machine works in: "
                "put the run on storage that all nodes share, or on s3://"
            )
        logging.getLogger("prefmill").addHandler(_Forward(self._news))
        phase = phases(own.run)[own.phase]
        libraries = {stage.name: made_with.libraries(own.run, stage) for stage in phase.stages}
        self._news.put(Here(self._node, libraries))
        place, threads = _place(phase, own)
        return last_words(own.run, phase, place, threads, self)


class _Forward(logging.Handler):
    """Sends what is logged to the driver."""

    def __init__(self, news: "queue.SimpleQueue[object]"):
        super().__init__()
        self._news = news

    def emit(self, record: logging.LogRecord) -> None:
        self._news.put(Said(record.levelno, record.getMessage()))


def _place(phase: Phase, task: Task) -> tuple[str, int]:
    """Where the model of an actor is, and with how many threads: on a GPU those of its share of the node."""
    if not task.gpus or phase.model is None:
        return "auto", task.threads
    actors_here = max(1, task.gpus_of_a_node // task.gpus)
    return places(phase.model.spec)[0], max(1, cores() // actors_here)
