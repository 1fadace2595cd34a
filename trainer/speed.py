"""Writes down how fast a run is and how much memory it takes, a line for each step.

What is written is read in schemas/trainings/clock.py.
"""

import contextlib
import resource
import time

import torch

from schemas.store import Store
from schemas.trainings.clock import CLOCK, line_of
from trainer.disk import at


class Speed:
    """The clock.jsonl of a train folder. A run that is resumed goes on with it; one that begins begins it."""

    def __init__(self, folder: Store, start: int):
        self._where = folder.where(CLOCK)
        with at(self._where):
            if start == 0 and folder.exists(CLOCK):
                folder.remove(CLOCK)
            self._file = folder.append(CLOCK)
        self._last = time.monotonic()

    def begin(self) -> None:
        """A step begins: evaluations and checkpoints before it are no part of its time."""
        self._last = time.monotonic()

    def step(self, step: int, tokens: int) -> None:
        """A step is done, of so many tokens.

        Raises UserError where the disk refuses the line."""
        line = line_of(step, time.monotonic() - self._last, tokens, _most_memory())
        with at(self._where):
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Close the file. That the disk refuses a line again was said already."""
        with contextlib.suppress(OSError):
            self._file.close()


def _most_memory() -> int:
    """The most bytes that this process has held: of the GPU where it uses one, else of the machine."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
