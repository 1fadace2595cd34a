"""Shards on the nodes of a Ray cluster: actors that hold one model each, dealt to as processes are.

- An actor or a node that dies costs its shards, which are dealt again. Ray restarts nothing: with restarts a
  shard would wait for ever for a node that is gone.
- Nodes that join get actors: up to `workers`, or as many as they have room for.
- The driver asks each actor for news, which comes at once, or after two seconds as a sign of life. Ray itself
  sees a dead process at once and a dead node within half a minute; who is silent for two minutes is ended.
"""

import contextlib
import logging
import os
import pickle
import time
from dataclasses import dataclass
from typing import Any

from engine.executors.claimed import ClaimedShards
from engine.executors.deal import DEATHS, Deal, Room
from engine.executors.local import SILENCE
from engine.executors.phases import Gaps, Phase, phases, work_through
from engine.executors.ray_actor import Actor, Broken, Here, Said, Task, code_here
from engine.executors.ray_cluster import Needs, check_imported, connected, line_of, needs_of, nodes_alive, ray
from engine.executors.worker import Failed, NextShard, NoMoreWork, ShardEnded, ShardMade
from engine.listening import TICK, Ticks
from engine.plan import Run
from engine.progress import Progress, Work
from schemas import extensions, versions
from schemas.devices import gpus_here
from schemas.errors import UserError

_LOOK = 5.0  # seconds between two looks at the cluster's nodes
_TIME_FOR_A_NODE = 600.0  # seconds for which the cluster may have no node with room for a worker
_NODE_DIED = "node has died"  # in what Ray says of an actor whose node did
_log = logging.getLogger("prefmill")


def room() -> Room:
    """A worker for each GPU of the cluster's nodes, or one for each node's CPUs; without a cluster, of this
    machine."""
    if os.environ.get("RAY_ADDRESS") == "local":
        return Room(gpus_here())
    # Nothing is started only to look. Where no cluster is found that ought to be, `execute` says so.
    with contextlib.suppress(UserError), connected("auto"):
        nodes = nodes_alive()
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        with_cpus = sum(node.get("CPU", 0) >= 1 for node in nodes)
        return Room(max(1, gpus or with_cpus), max(1, len(nodes) if gpus else with_cpus))
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
    own_phase = phases(run)[phase]
    if own_phase.asks_server:
        # One process: so many requests are under way as the recipe says.
        work_through(run, own_phase, "auto", threads, shards, progress)
        return
    with connected():
        needs = needs_of(run, own_phase, gaps, threads, nodes_alive())
        most_gpus = max((int(node.get("GPU", 0)) for node in nodes_alive()), default=0)
        task = Task(run, phase, needs.gpus, most_gpus, threads, run.store.names("job-*.json"))
        _Driver(run, own_phase, shards, needs, workers, task, progress).run()


@dataclass
class _Worker:
    """An actor as the driver knows it. `node`: empty until it has spoken."""

    actor: Any
    node: str = ""
    silent: float = 0.0  # seconds since its last sign of life


class _Driver:
    """Deals the shards of a phase out to actors, and asks them for news until all is made."""

    def __init__(
        self,
        run: Run,
        phase: Phase,
        shards: ClaimedShards,
        needs: Needs,
        workers: int,
        task: Task,
        progress: Progress,
    ):
        self._run = run
        self._phase = phase
        self._needs = needs
        self._limit = workers
        self._progress = progress
        self._deal: Deal[int] = Deal(shards)
        self._workers: dict[int, _Worker] = {}
        self._asked: dict[Any, int] = {}  # what an actor was asked for news -> the actor's number
        self._started = 0
        self._idle_deaths = 0  # of actors, one after another, that had no shard, on nodes that live
        self._no_room = 0.0  # seconds for which no node has had room for a worker
        self._is_ending = False
        # A thread for news, one for shards, and one to spare.
        self._actors = ray.remote(Actor).options(
            num_gpus=needs.gpus, num_cpus=needs.cpus, max_restarts=0, max_concurrency=3
        )
        self._arguments = (ray.put(pickle.dumps(task)), code_here(), extensions.packages(), os.getcwd())

    def run(self) -> None:
        """Raises UserError where a shard cannot be made; no actor is left behind."""
        ticks = Ticks()
        look_at = 0.0
        try:
            while self._deal.unfinished() or self._workers:
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + _LOOK
                    self._fill()
                self._hear()
                self._count_silence(ticks.seconds())
                self._give()
        finally:
            for number in list(self._workers):
                self._drop(number)

    def _fill(self) -> None:
        """Start actors where there is room for them and shards are left."""
        if self._is_ending:
            return
        room = self._needs.places(nodes_alive())
        # More than there is room for, where so many are wanted: a cluster that grows sees what is wanting.
        wanted = min(self._limit or room, self._deal.unfinished())
        while len(self._workers) < wanted:
            number = self._started
            self._started += 1
            self._workers[number] = _Worker(self._actors.remote(*self._arguments))
            self._ask(number)
        if room:
            self._no_room = 0.0
        elif not self._no_room:
            _log.warning("no node of the cluster has room for a worker (%s): waiting for one", self._needs)

    def _ask(self, number: int) -> None:
        self._asked[self._workers[number].actor.listen.remote()] = number

    def _hear(self) -> None:
        """Wait a moment for news, and take it."""
        if not self._asked:
            time.sleep(TICK)
            return
        answered, _ = ray.wait(list(self._asked), timeout=TICK)
        for question in answered:
            number = self._asked.pop(question)
            try:
                news = ray.get(question)
            except ray.exceptions.RayTaskError:
                raise  # our own mistake
            except ray.exceptions.RayError as error:
                check_imported(error)
                self._replace(number, line_of(error))
                continue
            self._workers[number].silent = 0.0
            for message in news:
                self._take(number, message)
            if number in self._workers:
                self._ask(number)

    def _take(self, number: int, message: object) -> None:
        """Take one message of an actor."""
        match message:
            case Here():
                self._welcome(number, message)
            case NextShard():
                self._deal.ask(number)
            case ShardEnded(shard):
                self._idle_deaths = 0
                self._deal.ended(number, shard)
            case Failed(error):
                raise error
            case Broken(text):
                raise RuntimeError(f"a worker on a node of the cluster ended by a mistake of ours:\n{text}")
            case NoMoreWork():
                self._drop(number)
            case ShardMade(stage, marker):
                self._progress.shard_done(stage, marker)
            case Work():
                self._progress.work(message)
            case Said(level, text):
                _log.log(level, "%s: %s", self._workers[number].node, text)

    def _welcome(self, number: int, here: Here) -> None:
        """Take in an actor that is ready. What its node makes rows with is written down where it differs."""
        self._workers[number].node = here.node
        self._deal.join(number)
        for stage in self._phase.stages:
            folder = self._run.folder(stage)
            others = versions.others(versions.read(folder), here.libraries[stage.name])
            if others:
                versions.note(folder, here.libraries[stage.name], goes_on=True)
                _log.warning("%s: other parts of %s were made with %s", here.node, folder.name, others)

    def _give(self) -> None:
        """Give shards to the actors that ask for them; where there are none any more, let all end."""
        while (gift := self._deal.next()) is not None:
            number, shard = gift
            self._workers[number].actor.give.remote(shard)
            self._is_ending = self._is_ending or shard is None
        if self._is_ending:
            for number, worker in list(self._workers.items()):
                if not worker.node:
                    self._drop(number)

    def _count_silence(self, seconds: float) -> None:
        """End the actors that have been silent for too long, and the run where there is no room for any."""
        for number, worker in list(self._workers.items()):
            worker.silent += seconds
            if worker.node and worker.silent > SILENCE:
                self._replace(number, f"it gave no sign of life for {SILENCE:g} s")
        if any(worker.node for worker in self._workers.values()):
            self._no_room = 0.0
        elif not self._needs.places(nodes_alive()):
            self._no_room += seconds
        if self._no_room > _TIME_FOR_A_NODE:
            raise UserError(
                f"no node of the cluster has had room for a worker ({self._needs}) for "
                f"{_TIME_FOR_A_NODE:g} s; finished shards are kept: see `ray status`, and run the same "
                "command again when it shows such a node"
            )

    def _drop(self, number: int) -> list[int]:
        """Forget an actor, and end it; the shards that it had, which are to be dealt again."""
        worker = self._workers.pop(number)
        for question in [question for question, asked in self._asked.items() if asked == number]:
            del self._asked[question]
        ray.kill(worker.actor)
        return self._deal.leave(number) if worker.node else []

    def _replace(self, number: int, cause: str) -> None:
        """End an actor that is dead or silent; another one takes its place where there is room for it.

        Raises UserError where actors die of a shard, or before they have one."""
        node = self._workers[number].node or "a node"
        shards = self._drop(number)
        if self._is_ending:
            return
        is_alone = _NODE_DIED not in cause  # what dies with its node is no sign of anything
        self._idle_deaths = 0 if shards else self._idle_deaths + is_alone
        at_shards = f" at shard {', '.join(map(str, shards))}" if shards else ""
        said = f"worker on {node} ended{at_shards} ({cause})"
        if self._deal.cause_of_deaths() is not None:
            raise UserError(
                f"{said}; {DEATHS} workers ended with it in hand; finished shards are kept: "
                "run the same command to go on"
            )
        if self._idle_deaths >= DEATHS:
            raise UserError(f"{said}, as {DEATHS} did before they had a shard; finished shards are kept")
        _log.warning("%s; its work is dealt again", said)
        self._fill()
