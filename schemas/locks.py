"""A lock on a folder of a run: held by one process, gone with it.

The lock is on the file, not on its name. So whoever has it looks whether the name still leads to that file;
and a file that also lies elsewhere (a hard link, as `cp -al` makes) is left to the other place: a new one,
locked before it has the name, takes its place while the old one is held. So nobody has both.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from schemas import disk
from schemas.errors import UserError
from schemas.printable import printable


@contextlib.contextmanager
def held(path: Path, who: str) -> Iterator[None]:
    """Hold the lock that a file stands for. Raises UserError where another process holds it."""
    with contextlib.ExitStack() as opened:
        lock = _locked(path, who, opened)
        while not _leads_to(path, lock):
            lock.close()
            lock = _locked(path, who, opened)
        with disk.naming(path):
            if os.fstat(lock.fileno()).st_nlink > 1:
                old = lock
                lock = _in_its_place(path, opened)
                old.close()
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        yield


@contextlib.contextmanager
def briefly(path: Path) -> Iterator[None]:
    """Hold the lock that a file stands for, for a moment; waits while another process holds it."""
    with os.fdopen(disk.open_or_make(path, os.O_RDWR), "r+") as lock:
        with disk.naming(path):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _locked(path: Path, who: str, opened: contextlib.ExitStack) -> TextIO:
    """The file, locked and not changed."""
    handle = disk.open_or_make(path, os.O_RDWR)
    lock = opened.enter_context(os.fdopen(handle, "r+", errors="replace"))
    try:
        with disk.naming(path):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = printable(lock.read(20)) or "unknown"
        raise UserError(
            f"{path.parent}: another `{who}` (process {holder}) is at work in it; "
            "wait for it, or take another folder"
        ) from None
    return lock


def _leads_to(path: Path, lock: TextIO) -> bool:
    """True if the name is still that of the file: another process may have put a new one there."""
    state = disk.state_of(path)
    return state is not None and os.path.samestat(state, os.fstat(lock.fileno()))


def _in_its_place(path: Path, opened: contextlib.ExitStack) -> TextIO:
    """A new file that is locked, in the place of the one held."""
    with disk.written(path, lambda own: None) as own:
        lock = opened.enter_context(os.fdopen(os.open(own, os.O_RDWR | os.O_CLOEXEC), "r+"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(own, path)
    return lock
