"""SIGTERM in training: the step under way is finished and saved, then the process exits with status 143.

Spot machines and Slurm end a job so, some seconds or minutes before they kill it. What is saved is one
checkpoint more than without the signal; it is removed once the run has gone on to the next one
(trainer/checkpoint.py). Whoever gets the signal tells the other ranks with the sums of the step
(trainer/dist.py), so one rank is enough. An evaluation that is due is left to the run that goes on.
"""

import contextlib
import signal
from collections.abc import Iterator
from typing import NoReturn

from schemas.errors import Ended
from schemas.signals import sigterm_put_off, tell_of_sigterm
from schemas.store import Store
from schemas.trainings import record
from trainer.dist import Ranks

STATUS = 128 + signal.SIGTERM


@contextlib.contextmanager
def noticed(ranks: Ranks, save_on_signal: bool) -> Iterator["Notice"]:
    """Within, SIGTERM ends nothing by itself, unless train.save_on_signal = false."""
    if not save_on_signal:
        yield Notice(None)
        return
    with sigterm_put_off():
        yield Notice(ranks)


class Notice:
    """Whether a run was told to end. `ranks`: None where that is not asked for."""

    def __init__(self, ranks: Ranks | None) -> None:
        self._ranks = ranks

    def came(self) -> bool:
        """True once SIGTERM had come to a rank at the last sum over ranks; all of them answer alike."""
        if self._ranks is None or not self._ranks.told_to_end():
            return False
        tell_of_sigterm()  # torchrun sends it to the others as soon as one rank has ended
        return True


def end() -> NoReturn:
    """End the command, after its last line was said."""
    raise Ended(STATUS)


def is_evaluated(folder: Store, step: int) -> bool:
    """True if the record has the metrics of an evaluation after a step."""
    for line in record.read(folder):
        if line["step"] == step and any(name.startswith("eval_") for name in line):
            return True
    return False
