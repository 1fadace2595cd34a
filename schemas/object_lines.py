"""A text file that grows on object storage, where nothing can be added to an object: it is put whole.

Not at each line: at most every few seconds, and when it is closed. What was written since is lost with the
process, as a line is that a local file had not flushed.
"""

import io
import time
from collections.abc import Callable

_SECONDS_BETWEEN_PUTS = 5.0


class ObjectLines(io.StringIO):
    """Holds what is added to an object that has the bytes `before`; `put` writes the whole of it."""

    def __init__(self, before: bytes, put: Callable[[bytes], object]):
        super().__init__(newline="")
        self._before = before
        self._put = put
        self._length = 0  # of what was added and put
        self._at = time.monotonic()

    def flush(self) -> None:
        if time.monotonic() - self._at > _SECONDS_BETWEEN_PUTS:
            self._publish()

    def close(self) -> None:
        if not self.closed:
            self._publish()
        super().close()

    def _publish(self) -> None:
        added = self.getvalue()
        if len(added) != self._length:
            self._put(self._before + added.encode())
            self._length = len(added)
        self._at = time.monotonic()
