"""Listening to other processes, none of which can make us wait for ever.

- A thread for each pipe takes its messages. So a process that is stopped in the middle of a message blocks
  that thread alone.
- Silence is counted in ticks of our own: time in which this process was stopped itself (Ctrl-Z, a laptop that
  slept) is nobody's silence.
"""

import queue
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

TICK = 1.0  # seconds between two looks at the clock
_MOST_OF_A_TICK = 2 * TICK  # what counts of a longer one: the rest of it we were stopped


class Ended:
    """Said by a pipe that has ended: its process is dead, or is not able to speak any more."""


class Inbox:
    """The messages of several pipes, each with its pipe, in the order in which they come."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[tuple[Connection, Any]] = queue.SimpleQueue()

    def listen(self, pipe: Connection) -> None:
        """Take the messages of a pipe until it ends."""
        threading.Thread(target=self._take, args=(pipe,), daemon=True).start()

    def _take(self, pipe: Connection) -> None:
        try:
            while True:
                self._messages.put((pipe, pipe.recv()))
        # A process that dies within a message leaves bytes that are none.
        except Exception:
            self._messages.put((pipe, Ended()))

    def next(self, seconds: float) -> tuple[Connection, Any] | None:
        """The next message and whose it is; None if there is none for so long."""
        try:
            return self._messages.get(timeout=seconds)
        except queue.Empty:
            return None


class Ticks:
    """Counts the seconds in which this process was at work."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def seconds(self) -> float:
        """Seconds since the last call, without those in which this process was stopped."""
        now = time.monotonic()
        passed = min(now - self._last, _MOST_OF_A_TICK)
        self._last = now
        return passed
