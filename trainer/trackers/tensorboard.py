"""TensorBoard: event files in the train folder's tensorboard/.

TensorBoard writes them by itself, to a local path: an exception to the store. They are for people and no part
of the record, so a cut-off one does no harm."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer.tracking import Answer, Past, Tracked, Values

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_FOLDER = "tensorboard"


class Board:
    """Implements trainer.tracking.Tracker."""

    def __init__(self, writer: "SummaryWriter"):
        self._writer = writer

    def write(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def show(self, step: int, answers: Sequence[Answer]) -> None:
        for number, answer in enumerate(answers):
            self._writer.add_text(f"eval_samples/{number}", _as_markdown(answer), step)

    def close(self, finished: bool) -> None:
        self._writer.close()


def start(run: Tracked) -> Board:
    """Open the event files; those that are there are taken to hold the record up to the run's start."""
    from torch.utils.tensorboard import SummaryWriter

    folder = run.folder.local_path(_FOLDER)
    missing: Sequence[Past] = run.past
    if folder.is_dir() and any(folder.iterdir()):
        missing = ()
    # From this step on TensorBoard leaves out what a killed run has written.
    purge_step = run.start + 1 if run.start else 0
    board = Board(SummaryWriter(str(folder), purge_step=None if missing else purge_step))
    for past in missing:
        board.write(past.step, past.values)
        if past.answers:
            board.show(past.step, past.answers)
    return board


def _as_markdown(answer: Answer) -> str:
    """An answer as a list, its texts as JSON strings: no markup in them is obeyed."""
    lines = [f"- **{name}**: `{json.dumps(value, ensure_ascii=False)}`" for name, value in answer.items()]
    return "\n".join(lines)
