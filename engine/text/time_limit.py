"""A limit on the time that a piece of Python may take, in any thread.

One watchdog thread looks at what is under way and raises an exception in a thread whose time is over, which
no signal could do. Counted is the processor time of that thread, so that a machine under load, or a stopped
process, changes no outcome. What runs in C and never comes back to Python cannot be ended so; the size limits
of engine/text/weights.py are for that.
"""

import ctypes
import threading
import time
from collections.abc import Callable
from typing import TypeVar

_LOOK_EVERY = 0.1  # seconds
_Result = TypeVar("_Result")


class OutOfTime(Exception):
    """What was to be done took longer than it may."""


class _Stop(BaseException):
    """Raised in the thread whose time is over: no `except Exception` on the way catches it."""


class _UnderWay:
    """What a thread does, and until when by its clock: set when it is first seen. `fired`: it was stopped."""

    __slots__ = ("end", "fired", "is_done", "is_firing", "seconds")

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.end: float | None = None
        self.is_done = False
        self.is_firing = False
        self.fired = False


_under_way: dict[int, _UnderWay] = {}
_watchdog: threading.Thread | None = None
_starting = threading.Lock()


def limited(work: Callable[[], _Result], seconds: float) -> _Result:
    """The result of `work`. Raises OutOfTime if it takes more processor time than so many seconds."""
    _watch()
    ident = threading.get_ident()
    entry = _UnderWay(seconds)
    _under_way[ident] = entry
    try:
        try:
            return work()
        finally:
            # From here on at most one _Stop is still to come.
            entry.is_done = True
            _finish(ident, entry)
    except _Stop:
        _finish(ident, entry)
        raise OutOfTime(f"it takes more than {seconds:g} s") from None


def _finish(ident: int, entry: _UnderWay) -> None:
    """End the watch; a _Stop on its way is dropped."""
    while entry.is_firing:
        time.sleep(0)
    _under_way.pop(ident, None)
    if entry.fired:
        raise_in(ident, None)


def _watch() -> None:
    """Start the watchdog, where there is none yet (a forked process has none)."""
    global _watchdog
    if _watchdog is not None and _watchdog.is_alive():
        return
    with _starting:
        if _watchdog is None or not _watchdog.is_alive():
            _watchdog = threading.Thread(target=_look_on, name="prefmill-time-limit", daemon=True)
            _watchdog.start()


def _look_on() -> None:
    while True:
        time.sleep(_LOOK_EVERY)
        for ident, entry in list(_under_way.items()):
            entry.is_firing = True
            # A thread that is done waits in `_finish` meanwhile, so its clock is there.
            if not entry.is_done and _is_over(ident, entry):
                entry.fired = True
                raise_in(ident, _Stop)
            entry.is_firing = False


def _is_over(ident: int, entry: _UnderWay) -> bool:
    """Whether the time of a thread's work is over."""
    now = time.clock_gettime(_clock_of(ident))
    if entry.end is None:
        entry.end = now + entry.seconds
    return now > entry.end


def raise_in(ident: int, kind: type[BaseException] | None) -> None:
    """Raise an exception in a thread at its next step; None takes back one that it has not met yet."""
    exception = ctypes.py_object(kind) if kind else ctypes.py_object()
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), exception)


def _clock_of(ident: int) -> int:
    """The processor clock of a thread; where the system has none for threads, that of the wall."""
    if hasattr(time, "pthread_getcpuclockid"):
        return time.pthread_getcpuclockid(ident)
    return time.CLOCK_MONOTONIC
