"""torchrun, which started this rank: where it is gone, nobody would end the ranks, so each ends itself.

torchrun outlives its ranks unless it was killed. A shell, mpirun or srun may end before what they started (as
under nohup), so those are not watched.
"""

import os
import threading

from schemas.screen import say

_SECONDS_BETWEEN = 0.2
_STARTED_BY = os.getppid()  # read before torch is loaded, which takes seconds


class Watch:
    """A thread that ends this process when torchrun has ended. `again`: what the user can do then."""

    def __init__(self, again: str, started_by: int = _STARTED_BY):
        self._again = again
        self._started_by = started_by
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="launcher", daemon=True)

    def start(self) -> None:
        """Begin to watch, where it was torchrun that started this process."""
        if "TORCHELASTIC_RUN_ID" in os.environ:
            self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._ended.set()

    def _watch(self) -> None:
        while os.getppid() == self._started_by:
            if self._ended.wait(_SECONDS_BETWEEN):
                return
        if not self._ended.is_set():
            end(f"torchrun (process {self._started_by}) has ended, and its ranks end with it; {self._again}")


def end(problem: str) -> None:
    """Say what is wrong, and end this process at once, from any of its threads."""
    say(f"rank {os.environ.get('RANK', '0')}: error: {problem}", err=True)
    os._exit(1)
