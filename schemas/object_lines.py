"""A text file that grows on object storage, where nothing can be added to an object: it is put whole.

Not at each line: at most every few seconds, and when it is closed. What was written since is lost with the
process, as a line is that a local file had not flushed.
"""

import io
import time
from collections.abc import Callable

_SECONDS_BETWEEN_PUTS = 5.0


class ObjectLines(io.StringIO):
    """Holds all that the file is to have. `put` writes it whole."""

    def __init__(self, before: bytes, put: Callable[[bytes], object]):
        super().__init__(newline="")
        super().write(before.decode())
        self._put = put
        self._written = self.tell()
        self._at = time.monotonic()

    def flush(self) -> None:
        if time.monotonic() - self._at > _SECONDS_BETWEEN_PUTS:
            self._publish()

    def close(self) -> None:
        if not self.closed:
            self._publish()
        super().close()

    def _publish(self) -> None:
        if self.tell() != self._written:
            self._put(self.getvalue().encode())
            self._written = self.tell()
        self._at = time.monotonic()
