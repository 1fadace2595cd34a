"""The Ray cluster that shards are made on: how it is found, what its nodes have, what a worker takes of them.

It is the one of RAY_ADDRESS, or the one that this machine is a node of; else Ray is started on this machine,
and ended with the command.
"""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from engine.executors.local import needs_model
from engine.executors.phases import Gaps, Phase
from engine.models.open import gpus_of_an_engine
from engine.plan import Run
from schemas.errors import UserError
from schemas.printable import one_line

try:
    import ray as ray  # for ray.py as well
except ImportError:
    raise UserError('--executor ray needs Ray: pip install -e ".[ray]"') from None


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Be connected to a cluster. Raises UserError where none answers.

    `address`: auto for one that is there; None for that, or one that is started here, and ended."""
    if ray.is_initialized():
        yield
        return
    with _own_signal_handlers():
        try:
            # No dashboard where Ray is started here; what actors say of a run comes as news.
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            place = os.environ.get("RAY_ADDRESS", "of this machine")
            raise UserError(
                f"--executor ray: no cluster at the address {place} ({line_of(error)}); see `ray status`, "
                "and set RAY_ADDRESS to the head's HOST:PORT, or to local to start Ray on this machine alone"
            ) from None
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep what this process does at SIGTERM: `ray.init` puts a handler of its own in its place."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def nodes_alive() -> list[Mapping[str, float]]:
    """What each node that is alive has: GPU, CPU."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@dataclass(frozen=True)
class Needs:
    """What a worker takes of a node: GPUs, or CPUs."""

    gpus: int
    cpus: int

    def __str__(self) -> str:
        return f"{self.gpus} GPU" if self.gpus else f"{self.cpus} CPU"

    def places(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """How many workers the nodes have room for."""
        resource, each = ("GPU", self.gpus) if self.gpus else ("CPU", self.cpus)
        return sum(int(node.get(resource, 0)) // each for node in nodes)


def needs_of(run: Run, phase: Phase, gaps: Gaps, threads: int, nodes: Sequence[Mapping[str, float]]) -> Needs:
    """What a worker of a phase takes. Raises UserError where the recipe names one GPU of one machine."""
    if phase.model is None or not needs_model(run, phase, gaps):
        return Needs(0, 1)
    device = phase.model.spec.config.device
    if device.startswith("cuda:"):
        raise UserError(
            f"model.device = {device} names a GPU of one machine, and Ray chooses them: "
            "set it to auto, cuda or cpu"
        )
    has_gpus = any(node.get("GPU", 0) for node in nodes)
    if device == "cuda" or (device == "auto" and has_gpus):
        return Needs(gpus_of_an_engine(phase.model.spec), 0)
    # A node with fewer CPUs than the plan has threads can make shards as well, only slower.
    largest = max((int(node.get("CPU", 0)) for node in nodes), default=1)
    return Needs(0, max(1, min(threads, largest)))


def line_of(error: BaseException) -> str:
    """What an error of Ray says, in one line."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return one_line(" ".join(said))[:300]


def check_imported(error: Exception) -> None:
    """Raise UserError where an actor died because its node does not have this code, or what it imports."""
    said = str(error)
    if "failed to import on the worker" in said:
        reason = one_line(said.strip().splitlines()[-1])
        raise UserError(
            f"a node of the cluster cannot import prefmill ({reason}): install it on every node, in the "
            "Python that Ray is started with, and restart Ray there"
        )
