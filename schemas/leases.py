"""A lease: a file of a run that says who holds something, as long as its holder gives signs of life.

- Taken by writing a file where there is none, and renewed by a beat every few seconds. Both work on object
  storage, where no process can hold a lock.
- A holder on this machine is dead as soon as its process is gone: nobody waits after a kill. One elsewhere is
  dead if its beat has not changed for a minute, by the clock of whoever watches: clocks are never compared.
- What a dead holder held is taken over by replacing the very bytes that were seen, so of several that try
  one succeeds; a holder that was only slow finds at its next beat that it has lost it.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

from schemas import processes
from schemas.errors import UserError
from schemas.printable import printable
from schemas.shapes import ShapeError, shaped
from schemas.store_protocol import Store

BEAT = 10.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one after which a holder elsewhere is dead
_LOOK = 1.0  # seconds between two looks at a lease that somebody else holds
_PATIENCE = 10.0  # seconds that giving a lease back may take: its holder ends, and is dead soon anyway
LOCK = ".lock"  # the lease of a whole folder

_log = logging.getLogger("prefmill")

# The leases that this process holds: another thread of ours, or a call that was cut off, is told from it.
_held_here: set[str] = set()


@dataclass(frozen=True)
class Holder:
    """Who holds a lease. `machine`, `pid` and `born` name a process for good: numbers are used again."""

    who: str  # the command
    host: str
    machine: str
    pid: int
    born: str
    token: str
    beat: int = 0

    def __str__(self) -> str:
        return f"`{printable(self.who)}` (process {self.pid} on {printable(self.host)})"

    def as_bytes(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()


def holder_in(data: bytes) -> Holder | None:
    """The holder that a lease's file names; None where it names none."""
    try:
        value = json.loads(data)
        return shaped(Holder, value) if isinstance(value, dict) else None
    except (ValueError, RecursionError, ShapeError):
        return None


def new_token() -> str:
    """What tells a lease from every other."""
    return secrets.token_hex(8)


def this_process(who: str, token: str) -> Holder:
    """This process as the holder of a lease that is still to be taken."""
    return Holder(
        who=who,
        host=socket.gethostname(),
        machine=processes.machine(),
        pid=os.getpid(),
        born=processes.born(os.getpid()) or "",
        token=token,
    )


class Watch:
    """Tells which holders are dead, from what it has seen of them so far."""

    def __init__(self) -> None:
        # token -> its bytes, and since when they are the same
        self._seen: dict[str, tuple[bytes, float]] = {}

    def is_dead(self, data: bytes) -> bool:
        """True if the holder that a lease's file names is dead. Bytes that name none are nobody's lease."""
        holder = holder_in(data)
        if holder is None:
            return True
        if holder.token in _held_here:
            return False
        if holder.machine == processes.machine():
            if holder.pid == os.getpid() or processes.born(holder.pid) != holder.born:
                return True
            if holder.born:
                return False
            # Without /proc: another process may have the number by now, so its beat tells.
        before, since = self._seen.get(holder.token, (b"", 0.0))
        if before != data:
            self._seen[holder.token] = (data, time.monotonic())
            return False
        return time.monotonic() - since >= SILENCE


class Lost(UserError):
    """A lease is held by another process now."""


class Lease:
    """One file that this process holds, or tries to."""

    def __init__(self, store: Store, name: str, who: str, token: str = ""):
        """`token`: of `new_token`, where the caller has to know it."""
        self._store = store
        self._name = name
        self._watch = Watch()
        self._record = this_process(who, token or new_token())
        self._lock = threading.Lock()

    def take(self) -> Holder | None:
        """Take the lease if it is free, or its holder dead; else who holds it."""
        _held_here.add(self._record.token)  # before anybody can see the file
        try:
            holder = self._take()
        except BaseException:
            _held_here.discard(self._record.token)
            raise
        if holder is not None:
            _held_here.discard(self._record.token)
        return holder

    def _take(self) -> Holder | None:
        while not self._store.put_if_absent(self._name, self._record.as_bytes()):
            try:
                seen = self._store.read(self._name)
            except FileNotFoundError:
                continue
            if not self._watch.is_dead(seen):
                return holder_in(seen)
            if self._store.replace_if(self._name, seen, self._record.as_bytes()):
                break
        return None

    def renew(self) -> None:
        """Give a sign of life. Raises Lost where another process has taken the lease over."""
        with self._lock:
            self._renew()

    def _renew(self) -> None:
        seen = self._record.as_bytes()
        following = replace(self._record, beat=self._record.beat + 1)
        while not self._store.replace_if(self._name, seen, following.as_bytes()):
            try:
                seen = self._store.read(self._name)
            except FileNotFoundError:
                seen = b""
            holder = holder_in(seen)
            if holder is None or holder.token != self._record.token:
                _held_here.discard(self._record.token)
                raise Lost(
                    f"{self._store.where(self._name)}: this command gave no sign of life for {SILENCE:g} s, "
                    "and another one has taken over: run the same command again"
                )
            # Ours: an earlier renewal was done, and its answer lost.
            following = replace(holder, beat=holder.beat + 1)
        self._record = following

    def release(self) -> None:
        """Give the lease back, if it is still ours.

        Renewed first: so nobody takes it over in the moment before its file is removed."""
        with self._lock:
            try:
                self._renew()
                self._store.remove(self._name)
            except Lost:
                pass
            finally:
                _held_here.discard(self._record.token)


class Beats:
    """Renews a lease in a thread, until it is stopped or the lease is lost."""

    def __init__(self, lease: Lease):
        self._lease = lease
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(BEAT):
            begun = time.monotonic()
            try:
                self._lease.renew()
                last = begun
            except Lost as error:
                self.error = error
                return
            except Exception as error:
                # A storage that does not answer, or refuses, may come back, as long as nobody can have taken
                # over. One try may take minutes.
                if time.monotonic() - last >= SILENCE:
                    self.error = error
                    return

    def check(self) -> None:
        """Raise what ended the beats before they were stopped."""
        if self.error is not None:
            raise self.error

    def sure(self) -> None:
        """Raise Lost, or what the storage says, unless the lease is ours now and stays so for a while."""
        self.check()
        self._lease.renew()

    def stop(self, give_back: Callable[[], None]) -> None:
        """Beat no more and call what gives back all that is held, which may take some seconds and no more.

        A storage that does not answer would hold up the end of a command for minutes."""
        self._stopped.set()
        failed: list[BaseException] = []

        def end() -> None:
            try:
                self._thread.join()
                give_back()
            except BaseException as error:
                failed.append(error)

        ending = threading.Thread(target=end, daemon=True)
        ending.start()
        ending.join(_PATIENCE)
        if failed:
            raise failed[0]


@contextlib.contextmanager
def held(store: Store, name: str, who: str) -> Iterator[Beats]:
    """Hold a lease. Raises UserError where another process holds it, and Lost at the end where it was lost.

    A holder on another machine without a sign of life is watched for a minute, then taken for dead."""
    lease = Lease(store, name, who)
    _take_or_refuse(lease, store)
    with _beating(lease) as beats:
        yield beats


@contextlib.contextmanager
def awaited(
    store: Store, name: str, who: str, waits: Callable[[Holder], None] | None = None
) -> Iterator[None]:
    """Hold a lease as soon as it is free. `waits` is told, once, for whom; else the log is."""
    lease = Lease(store, name, who)
    holder = lease.take()
    if holder is not None:
        waits(holder) if waits else _log.info("%s: waiting for %s", store, holder)
    while holder is not None:
        time.sleep(_LOOK)
        holder = lease.take()
    with _beating(lease):
        yield


@contextlib.contextmanager
def _beating(lease: Lease) -> Iterator[Beats]:
    """Renew a lease that is taken, and give it back."""
    beats = Beats(lease)
    beats.start()
    try:
        yield beats
        beats.check()
    finally:
        beats.stop(lease.release)


def _take_or_refuse(lease: Lease, store: Store) -> None:
    first = lease.take()
    holder = first
    while holder is not None:
        is_silent = first is not None and (holder.token, holder.beat) == (first.token, first.beat)
        if holder.machine == processes.machine() or not is_silent:
            raise UserError(
                f"{store}: another {holder} is at work in it; wait for it, or take another folder"
            )
        if holder is first:
            _log.info("%s: %s was at work; looking for up to %g s whether it lives", store, holder, SILENCE)
        time.sleep(_LOOK)
        holder = lease.take()
