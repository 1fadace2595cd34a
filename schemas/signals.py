"""SIGTERM and SIGHUP end a command as Ctrl-C does: cleanly, saying what is kept, and within seconds.

Schedulers end a job by SIGTERM, a terminal that is closed sends SIGHUP. Python runs a handler only between
two steps of its own, and a process may wait in C for long (a collective of ranks, a file system that does not
answer). So a thread is told of the signal as well, by the kernel, and ends the process where it does not end
by itself. Under nohup SIGHUP stays ignored.

A training run that can save what it has asks for more time: within `sigterm_put_off` SIGTERM ends nothing by
itself, and the run looks at `told_to_end` between two steps. A second SIGTERM ends it at once. Slurm and
others signal torchrun and its ranks, and torchrun passes the signal on, so what comes within seconds of the
first one is the same one.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from schemas.screen import say

_GRACE = 10.0  # seconds for a clean end; schedulers give 30 before SIGKILL
_ENDING = frozenset({signal.SIGTERM, signal.SIGHUP})
_SAME = 5.0  # seconds after a SIGTERM that was put off in which another one is the same
_told: list[int] = []  # the signals that told this process to end
_put_off = threading.Event()  # set while SIGTERM is
_was_put_off = threading.Event()  # set once one was


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
    _was_put_off.clear()
    before = {}
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _stop)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    told_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    over = threading.Event()
    threading.Thread(target=_end_late, args=(reading, set(before), over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(told_before)
        os.close(writing)  # the thread ends with it
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def sigterm_put_off() -> Iterator[None]:
    """Within, the first SIGTERM raises nothing: `told_to_end` says that it came. A second one ends at once.

    Raises Stopped at the end where one came. Does nothing outside `ended_by_signals`."""
    _told.clear()  # of a command before this one in the same process
    _put_off.set()
    try:
        yield
    finally:
        _put_off.clear()
    if _told:
        raise Stopped


def tell_of_sigterm() -> None:
    """Take it that SIGTERM came to this process: it came to another one that works with it."""
    if not _told:
        _told.append(signal.SIGTERM)


def _stop(number: int, frame: FrameType | None) -> None:
    is_first = not _told
    _told.append(number)
    if number == signal.SIGTERM and _put_off.is_set():
        _was_put_off.set()
    elif is_first:  # being told again must not cut off the clean end
        raise Stopped


def _end_late(told: int, ending: set[signal.Signals], over: threading.Event) -> None:
    """Wait for a signal that ends the process; end it where it is still there after the time of grace.

    `over`: set when the command has ended. A process that does something else then is let be."""
    put_off_at: float | None = None
    try:
        while numbers := os.read(told, 64):
            for number in numbers:
                if number not in ending:
                    continue
                is_first = put_off_at is None
                is_put_off = _put_off.is_set() or (is_first and _was_put_off.is_set())
                if number != signal.SIGTERM or not is_put_off:
                    time.sleep(_GRACE)
                    if not _does_something_else(over):
                        os._exit(128 + number)
                    return
                now = time.monotonic()
                put_off_at = put_off_at or now
                if now - put_off_at > _SAME and not _does_something_else(over):
                    say("stopped at once, since SIGTERM came again; what was saved is kept", err=True)
                    os._exit(128 + number)
    finally:
        os.close(told)


def _does_something_else(over: threading.Event) -> bool:
    """True in a process that goes on after the command, and is not about to end."""
    return over.is_set() and threading.main_thread().is_alive()


def _leave_to_parent() -> None:
    """A forked child ends by these signals at once, and does not tell its parent's thread of them."""
    for number in _ENDING:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_leave_to_parent)
