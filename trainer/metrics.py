"""What a batch says about the policy, under TRL's names, and where it is written.

It goes to metrics.jsonl, the screen, and TensorBoard if asked. metrics.jsonl holds nothing that depends on
the clock: a run that was killed and resumed ends with the same bytes as one that was not.
"""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from schemas.errors import UserError
from schemas.manifest import METRICS
from schemas.printable import one_line
from schemas.redaction import redacted
from schemas.screen import say
from schemas.store import Store
from trainer import record
from trainer.disk import at
from trainer.losses.side import Side

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

NAMES = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)
_SECONDS_BETWEEN_LINES = 10  # on a screen without a progress bar


@torch.no_grad()
def columns(losses: torch.Tensor, chosen: Side, rejected: Side, beta: float) -> torch.Tensor:
    """(len(NAMES) + 1, B) float64: each metric of each pair, and a row of ones."""
    chosen_rewards = beta * chosen.logratios
    rejected_rewards = beta * rejected.logratios
    rows = [
        losses,
        chosen_rewards,
        rejected_rewards,
        (chosen_rewards > rejected_rewards).float(),
        chosen_rewards - rejected_rewards,
        chosen.logps,
        rejected.logps,
        torch.ones_like(losses),
    ]
    return torch.stack([row.detach().double() for row in rows])


def zero_sums(device: torch.device) -> torch.Tensor:
    """The sums of `columns` over no pairs, to add to."""
    return torch.zeros(len(NAMES) + 1, dtype=torch.float64, device=device)


def means(totals: torch.Tensor) -> dict[str, float]:
    """The mean over all pairs of each metric, by its name; empty if there was no pair."""
    *values, pairs = totals.tolist()
    if not pairs:
        return {}
    return {name: value / pairs for name, value in zip(NAMES, values, strict=True)}


class Log:
    """Rank 0's record of a run.

    `start` is the step that is resumed from: what was written of later steps is dropped, since they are
    made again. `total` is the run's last step. Raises UserError if TensorBoard is wanted and not there."""

    def __init__(self, folder: Store, start: int, total: int, tensorboard: bool):
        self._where = folder.where(METRICS)
        with at(self._where):
            _drop_later_lines(folder, start)
            self._file = folder.append(METRICS)
        self._board: SummaryWriter | None = None
        if tensorboard:
            # TensorBoard writes its event files by itself, to a local path: the one exception to the store.
            # They are for people and no part of the record, so a cut-off one does no harm.
            self._board = _open_board(folder.local_path("tensorboard"), start)
        self._bar: tqdm[object] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                initial=start,
                unit=" step",
                dynamic_ncols=True,
            )
        self._total = total
        self._begun = time.monotonic()
        self._line_shown = 0.0  # when, by the same clock
        self._tokens = 0

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add values to the record. Each line is flushed, so a kill loses none that was written.

        Raises UserError for a value that is not finite, or where the disk refuses the line."""
        line = record.line_of(step, values)
        with at(self._where):
            self._file.write(line)
            self._file.flush()
        if self._board is not None:
            with at(self._board.log_dir):
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)

    def step(self, step: int, values: dict[str, float], tokens: int) -> None:
        """Add a training step's metrics to the record, and show them."""
        self.write(step, values)
        self._tokens += tokens
        now = time.monotonic()
        rate = self._tokens / max(1e-9, now - self._begun)
        shown = (
            f"loss {values['loss']:.4f}  accuracy {values['rewards/accuracies']:.2f}  "
            f"margin {values['rewards/margins']:.4f}  {rate:,.0f} tokens/s"
        )
        if self._bar is not None:
            self._bar.update(1)
            self._bar.set_postfix_str(shown)
        elif step == self._total or now - self._line_shown > _SECONDS_BETWEEN_LINES:
            self._line_shown = now
            self.say(f"step {step}/{self._total}  {shown}")

    def say(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        if self._bar is not None:
            tqdm.write(one_line(redacted(text)))
        else:
            say(text)

    def close(self) -> None:
        """Close the record and what shows it."""
        # A line that the disk has refused is still in memory: that it is refused again was said already.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            with at(self._board.log_dir):
                self._board.close()


def _drop_later_lines(folder: Store, start: int) -> None:
    """Keep the lines up to step `start`; none of them where it is 0, since step 0 is measured again too."""
    kept: list[str] = []
    if start > 0:
        for line in record.read(folder):
            if line["step"] <= start:
                kept.append(json.dumps(line) + "\n")
    folder.put(METRICS, "".join(kept).encode())


def _open_board(folder: Path, start: int) -> "SummaryWriter":
    """TensorBoard's writer. Raises UserError if it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "train.tensorboard = true needs TensorBoard: pip install 'prefmill[tensorboard]'"
        ) from None
    purge_step = None
    if start > 0:
        purge_step = start + 1
    return SummaryWriter(str(folder), purge_step=purge_step)
