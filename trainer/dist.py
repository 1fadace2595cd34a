"""Ranks: one process a GPU (or several on a CPU) under torchrun; alone without it.

What they share of the policy, and how gradients are summed, is trainer/parallel.py.
"""

import contextlib
import datetime
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from schemas.devices import check_device
from schemas.errors import UserError
from schemas.network_errors import is_of_network
from schemas.signals import told_to_end
from trainer.heartbeat import Heartbeat
from trainer.launcher import Watch, end

# How long a rank waits for one that gives signs of life (trainer/heartbeat.py), such as rank 0 while it saves
# a large model to a slow disk.
_TIMEOUT = datetime.timedelta(hours=6)
# Seconds that the ranks may come one after another, at least: one reads a model or the libraries from a disk,
# another has them in memory.
_COMING = 120.0

T = TypeVar("T")


class RankLost(UserError):
    """Another rank has ended. Each of those that are left says so."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train one policy.

    `rank` counts from 0. Every rank must call each method that talks to the others, in the same order. A
    single rank talks to no one: it gets back what it gave."""

    rank: int
    world_size: int
    device: torch.device
    again: str = "run the same command again"  # what the user can do where another rank is lost
    # Of the last `sum`: how many ranks had been told to end.
    _told: list[torch.Tensor] = field(default_factory=list, repr=False, compare=False)

    @property
    def first(self) -> bool:
        """True on the rank that writes and prints."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over ranks of a vector, on every rank. `values` is overwritten with it.

        On the way the ranks tell each other of a signal that came (`told_to_end`)."""
        if self.world_size > 1:
            # Made on the device: a copy to it would wait for all that is under way there.
            told = values.new_full((1,), float(told_to_end()))
            both = torch.cat([values, told])
            with _connected(self.again):
                dist.all_reduce(both)
            values.copy_(both[:-1])
            self._told[:] = [both[-1]]
        return values

    def told_to_end(self) -> bool:
        """True where SIGTERM had come to any rank at the last `sum`: all ranks answer alike."""
        if self.world_size == 1:
            return told_to_end()
        return bool(self._told) and self._told[0].item() > 0

    def gather(self, values: list[T]) -> list[T]:
        """The lists of all ranks, joined in the order of the ranks, on every rank."""
        if self.world_size == 1:
            return values
        parts: list[list[T]] = [[] for _ in range(self.world_size)]
        with _connected(self.again):
            dist.all_gather_object(parts, values)
        joined: list[T] = []
        for part in parts:
            joined.extend(part)
        return joined

    def wait(self) -> None:
        """Wait until every rank has come here, so that none reads what rank 0 has not written yet."""
        if self.world_size > 1:
            with _connected(self.again):
                dist.barrier()

    def machine_first(self, work: Callable[[], T]) -> T:
        """What `work` returns on each rank. On each machine it runs on one rank, and then on the others.

        So the others find in memory what that one has read. A UserError, or an error of the system, that it
        raises on any rank is raised on every one, and names the rank where it is not the first."""
        if self.world_size == 1:
            return work()
        is_first = os.environ.get("LOCAL_RANK", "0") == "0"
        found: list[T] = []
        for turn in (True, False):
            problems: list[str] = []
            if is_first == turn:
                try:
                    found.append(work())
                except (UserError, OSError) as error:
                    problems.append(str(error) if isinstance(error, UserError) else _in_words(error))
            by_rank = self.gather([(self.rank, socket.gethostname(), problem) for problem in problems])
            if by_rank:
                rank, host, problem = by_rank[0]
                raise UserError(f"rank {rank} on {host}: {problem}" if rank else problem, shared=True)
        return found[0]

    def from_first(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0, on every rank. The others do not run it.

        A UserError, or an error of the system, that it raises on rank 0 is raised on every rank, so that none
        waits for ever."""
        if self.world_size == 1:
            return work()
        said: list[object] = [None, None]
        if self.first:
            try:
                said[0] = work()
            except (UserError, OSError) as error:
                said[1] = error if isinstance(error, UserError) else _in_words(error)
        with _connected(self.again):
            dist.broadcast_object_list(said)
        value, problem = said
        if problem is not None:
            raise UserError(str(problem), shared=True)
        return value  # type: ignore[return-value]


def _in_words(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}"


@contextlib.contextmanager
def _connected(again: str) -> Iterator[None]:
    """Raise what gloo or NCCL says of another rank that has ended as a RankLost."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise _lost(error, again) from None


@contextlib.contextmanager
def connected(ranks: Ranks) -> Iterator[None]:
    """Raise as RankLost what a pass or a gradient's sum, in DDP or FSDP, says of a rank that has ended."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if ranks.world_size == 1 or not is_of_network(error):
            raise
        raise _lost(error, ranks.again) from None


def _lost(error: RuntimeError, again: str) -> RankLost:
    reason = str(error).strip().splitlines()[0].partition(". ")[0]
    return RankLost(
        f"another rank has ended, was killed or cannot be reached ({reason}); what it said of itself is "
        f"above or in its own log; {again}"
    )


_threads: list[Heartbeat | Watch] = []  # of this process, while it is among ranks
# Groups that were left. Were DDP's reducer the last to hold one, it would end it with Python's lock in hand
# and wait for gloo's thread, which may need that lock to free a tensor: for ever. Python itself ends a group
# without the lock.
_groups_left: list[dist.ProcessGroup] = []


def start(device: str, timeout: float, again: str = Ranks.again) -> Ranks:
    """Join the other ranks, as torchrun's environment names them. `device` is the one of [model].

    `timeout`: seconds without a sign of life after which a rank is given up; 0 waits for ever. `again`: what
    the user can do where a rank is lost. Raises UserError for a device that is not here, or where the ranks
    do not find each other."""
    check_device(device)
    rank = int(os.environ.get("RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    own_device = _device_of_process(device, world_size)
    ranks = Ranks(rank, world_size, own_device, again)
    uses_gpu = own_device.type == "cuda"
    _groups_left.clear()
    if world_size > 1:
        if uses_gpu:
            torch.cuda.set_device(own_device)
            let_nccl_errors_end()
        watch = Watch(again)
        watch.start()
        _threads.append(watch)
        _join("nccl" if uses_gpu else "gloo", ranks, timeout)
    return ranks


def let_nccl_errors_end() -> None:
    """Let an error of NCCL end the process (1 or 3), which is its default, whatever the environment says.

    By 0 nobody would learn of it; by 2 its calls are broken off, and training would go on with what they left
    (torch's ProcessGroupNCCL.hpp)."""
    for name in ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "NCCL_ASYNC_ERROR_HANDLING"):
        if os.environ.get(name, "3") not in ("1", "3"):
            os.environ[name] = "3"


def _join(backend: str, ranks: Ranks, timeout: float) -> None:
    """Meet the other ranks and begin to give signs of life."""
    rank = ranks.rank
    others = ranks.world_size - 1
    within = max(timeout, _COMING) if timeout else _TIMEOUT.total_seconds()
    problem = f"the {others} others have not been met after {within:g} s: one of them was stopped, or is lost"
    # Joining waits in C++, where not every call keeps to a limit.
    too_late = threading.Timer(within + 10, end, [f"{problem}; end it, then {ranks.again}"])
    too_late.daemon = True
    too_late.start()
    try:
        store = _store_of(ranks, within)
        if timeout:
            heartbeat = Heartbeat(store, rank, ranks.world_size, timeout, ranks.again)
            heartbeat.start(within)
            _threads.append(heartbeat)
        shared = PrefixStore("ranks", store)
        dist.init_process_group(
            backend, store=shared, rank=rank, world_size=ranks.world_size, timeout=_TIMEOUT
        )
    except UserError:
        raise
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"rank {rank} does not find the {others} others: {reason}; start all of them with "
            f"torchrun, and {ranks.again}"
        ) from None
    finally:
        too_late.cancel()


def _store_of(ranks: Ranks, within: float) -> Store:
    """The ranks' common store. Whoever holds it may come `within` so many seconds."""
    limit = datetime.timedelta(seconds=within)
    store, _, _ = next(rendezvous("env://", ranks.rank, ranks.world_size, timeout=limit))
    store.set_timeout(_TIMEOUT)
    return store


def _device_of_process(device: str, world_size: int) -> torch.device:
    """The device of this process alone.

    A process without others gets the device that was named. Several have a GPU each, by their number on
    this machine, whichever GPU was named; or they share the CPU."""
    if world_size == 1 and device not in ("auto", "cuda"):
        return torch.device(device)
    wants_gpu = device.startswith("cuda")
    if device == "auto":
        wants_gpu = torch.cuda.is_available()
    if not wants_gpu:
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", 0))
    return torch.device(f"cuda:{number}")


def is_first() -> bool:
    """True if this process is rank 0. Unlike `Ranks.first` it can be asked before `start`."""
    return os.environ.get("RANK", "0") == "0"


def stop() -> None:
    """Leave the other ranks; nothing happens if `start` has not joined any."""
    while _threads:
        _threads.pop().stop()
    if dist.is_initialized():
        group = dist.group.WORLD
        assert group is not None
        _groups_left.append(group)
        dist.destroy_process_group()
