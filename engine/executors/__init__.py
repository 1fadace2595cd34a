"""Where shards run. All state is in the run folder: an executor that dies loses its shards and no more.

To add one, write a module here with a function `execute` like `Executor`, and another, `room`, that says how
many workers there is room for; and add a line to EXECUTORS.
"""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from engine.executors.claimed import ClaimedShards
    from engine.executors.deal import Room
    from engine.executors.phases import Gaps
    from engine.plan import Run
    from engine.progress import Progress


class Executor(Protocol):
    """Takes shards through a phase."""

    def __call__(
        self,
        run: "Run",
        phase: int,
        shards: "ClaimedShards",
        gaps: "Gaps",
        workers: int,
        threads: int,
        progress: "Progress",
    ) -> None:
        """`phase`: its number among `phases(run)`; `shards`: those to be taken, of which each is to be told
        that it ended; `gaps`: shard -> the stages it lacks; `workers`: 0 is one for each place where the
        model runs; `threads`: of a model on the CPU in each worker.

        A worker that dies costs its shards, which others make. Raises UserError where a shard cannot be made;
        finished shards are kept."""
        ...


# Name -> the module, imported when it is asked for.
EXECUTORS = {
    "local": "engine.executors.local",
    "ray": "engine.executors.ray",
}
DEFAULT = "local"


@dataclass(frozen=True)
class Workforce:
    """Who makes the shards: the executor's name, and its workers with their threads (see Executor)."""

    executor: str
    workers: int
    threads: int


def executor_of(workforce: Workforce) -> Executor:
    """The executor, imported."""
    executor: Executor = importlib.import_module(EXECUTORS[workforce.executor]).execute
    return executor


def room_of(executor: str) -> "Room":
    """What an executor has to work on now."""
    room: Room = importlib.import_module(EXECUTORS[executor]).room()
    return room
