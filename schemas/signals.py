"""SIGTERM and SIGHUP end a command as Ctrl-C does: cleanly, saying what is kept, and within seconds.

Schedulers end a job by SIGTERM, a terminal that is closed sends SIGHUP. Python runs a handler only between
two steps of its own, and a process may wait in C for long (a collective of ranks, a file system that does not
answer). So a thread is told of the signal as well, by the kernel, and ends the process where it does not end
by itself. Under nohup SIGHUP stays ignored.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_GRACE = 10.0  # seconds for a clean end; schedulers give 30 before SIGKILL
_ENDING = frozenset({signal.SIGTERM, signal.SIGHUP})
_told: list[int] = []  # the signals that told this process to end


class Stopped(KeyboardInterrupt):
    """The process was told to end by another signal than Ctrl-C's."""


def told_to_end() -> bool:
    """True once SIGTERM or SIGHUP came."""
    return bool(_told)


def interruption() -> KeyboardInterrupt:
    """What interrupted this process, for code that has lost the exception itself in a library."""
    return Stopped() if _told else KeyboardInterrupt()


def exit_status() -> int:
    """The exit status of a command that was interrupted, as shells have it: 130 for Ctrl-C."""
    return 128 + (_told[0] if _told else signal.SIGINT)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP raise Stopped. Does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _told.clear()
    before = {}
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _stop)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    told_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_end_late, args=(reading, set(before)), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(told_before)
        os.close(writing)  # the thread ends with it
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    _told.append(number)
    if len(_told) == 1:  # being told again must not cut off the clean end
        raise Stopped


def _end_late(told: int, ending: set[signal.Signals]) -> None:
    """Wait for a signal that ends the process; end it where it is still there after the time of grace."""
    try:
        while numbers := os.read(told, 64):
            for number in numbers:
                if number in ending:
                    time.sleep(_GRACE)
                    os._exit(128 + number)
    finally:
        os.close(told)


def _leave_to_parent() -> None:
    """A forked child ends by these signals at once, and does not tell its parent's thread of them."""
    for number in _ENDING:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_leave_to_parent)
