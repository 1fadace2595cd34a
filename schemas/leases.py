"""A lock on a folder of a store that knows no locks: a file in it, which its holder keeps writing.

    {"beat": 7, "host": …, "pid": …, "started": …, "who": …, "token": …}

- It is made where there is none, and taken over by comparing and swapping: of several one succeeds.
- A holder on this machine that has died is seen at once, by its process's number and start. One on another
  machine is held for dead when its beat has not changed for a minute.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from schemas.errors import UserError
from schemas.printable import printable
from schemas.store_protocol import Store

SECONDS_TO_DEATH = 60.0
_SECONDS_BETWEEN_BEATS = 10.0
_SECONDS_BETWEEN_LOOKS = 1.0


@contextlib.contextmanager
def held(store: Store, name: str, who: str) -> Iterator[None]:
    """Hold the lease of this name. Raises UserError where another process holds it, or took it over."""
    lease = _Lease(store, name, who)
    lease.take()
    beating = threading.Thread(target=lease.beat, daemon=True)
    beating.start()
    try:
        yield
    finally:
        lease.ended.set()
        beating.join()
        if not lease.lost:
            store.remove(name)
    if lease.lost:
        raise UserError(
            f"{store}: another process took this folder over, since this one was not heard of for "
            f"{SECONDS_TO_DEATH:.0f} s: run the same command again"
        )


@dataclass
class _Lease:
    store: Store
    name: str
    who: str
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    beats: int = 0
    lost: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    def _bytes(self) -> bytes:
        value = {
            "beat": self.beats,
            "host": _machine(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "token": self.token,
            "who": self.who,
        }
        return json.dumps(value, sort_keys=True).encode()

    def take(self) -> None:
        """Take the lease where it is free or its holder is dead. Raises UserError where it is held."""
        seen = b""
        since = time.monotonic()
        while not self.store.put_if_absent(self.name, self._bytes()):
            try:
                found = self.store.read(self.name)
            except FileNotFoundError:
                continue
            if found != seen:
                if seen or _is_alive_here(found):
                    raise _is_held(self.store, found)
                seen = found
                since = time.monotonic()
            is_dead = _is_dead_here(found) or time.monotonic() - since > SECONDS_TO_DEATH
            if is_dead and self.store.replace_if(self.name, found, self._bytes()):
                return
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def beat(self) -> None:
        """Write the lease again and again until it has ended or is another's."""
        while not self.ended.wait(_SECONDS_BETWEEN_BEATS):
            old = self._bytes()
            self.beats += 1
            try:
                if not self.store.replace_if(self.name, old, self._bytes()):
                    self.lost = True
                    return
            except (OSError, UserError):
                self.beats -= 1  # the network may come back before a minute is over


def _is_held(store: Store, found: bytes) -> UserError:
    holder = _holder(found)
    return UserError(
        f"{store}: another `{printable(str(holder.get('who')))}` (process {holder.get('pid')} on "
        f"{printable(str(holder.get('host')))}) is at work in it; wait for it, or take another folder"
    )


def _holder(found: bytes) -> dict[str, object]:
    try:
        value = json.loads(found)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_alive_here(found: bytes) -> bool:
    holder = _holder(found)
    return holder.get("host") == _machine() and not _is_dead_here(found)


def _is_dead_here(found: bytes) -> bool:
    holder = _holder(found)
    pid = holder.get("pid")
    return (
        holder.get("host") == _machine() and isinstance(pid, int) and _started(pid) != holder.get("started")
    )


def _machine() -> str:
    """This machine: its name, and the number of its boot, which tells containers of one name apart."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return f"{socket.gethostname()} {file.read().strip()[:8]}"
    return socket.gethostname()


def _started(pid: int) -> str:
    """When a process of this machine was started, in the kernel's ticks; empty where there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            after_name = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after_name[0] in ("Z", "X") else after_name[19]
