"""Where shards run. All state is in the run folder: an executor that dies loses its shards and no more.

To add one, write a module here with a function `execute` like `Executor`, and add a line to EXECUTORS.
"""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from engine.executors.phases import Gaps
    from engine.plan import Run
    from engine.progress import Progress


class Executor(Protocol):
    """Makes what the shards lack."""

    def __call__(self, run: "Run", gaps: "Gaps", workers: int, threads: int, progress: "Progress") -> None:
        """`gaps`: shard -> the stages it lacks; `workers`: 0 is one for each place where the model runs;
        `threads`: of a model on the CPU in each worker.

        Raises UserError where a shard cannot be made; finished shards are kept."""
        ...


# Name -> the module, imported when it is asked for.
EXECUTORS = {
    "local": "engine.executors.local",
}
DEFAULT = "local"


@dataclass(frozen=True)
class Workforce:
    """Who makes the shards: the executor's name, and its workers with their threads (see Executor)."""

    executor: str
    workers: int
    threads: int


def execute(workforce: Workforce, run: "Run", gaps: "Gaps", progress: "Progress") -> None:
    """Make what the shards lack."""
    executor: Executor = importlib.import_module(EXECUTORS[workforce.executor]).execute
    executor(run, gaps, workforce.workers, workforce.threads, progress)
