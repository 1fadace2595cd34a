"""What a batch says about the policy, under TRL's names, and where it is written.

It goes to metrics.jsonl, the screen, and the trackers that are asked for (trainer/tracking.py). metrics.jsonl
holds nothing that depends on the clock: a run that was killed and resumed ends with the same bytes as one
that was not. So does samples.jsonl. How fast a run was is kept apart, in clock.jsonl (speed.py).
"""

import contextlib
import json
from collections.abc import Sequence
from typing import Any, TextIO

import torch

from schemas.manifest import METRICS, Facts
from schemas.screen import say
from schemas.store import Store
from schemas.trainings import record
from trainer import samples
from trainer.disk import at
from trainer.losses.side import Side
from trainer.progress import StepBar
from trainer.speed import Speed
from trainer.tracking import Past, Tracked, Trackers

NAMES = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


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
    made again. `total` is the run's last step. `report_to`: the trackers, which are told `facts`."""

    def __init__(
        self, folder: Store, start: int, total: int, report_to: Sequence[str] = (), facts: Facts | None = None
    ):
        self._folder = folder
        self._where = folder.where(METRICS)
        with at(self._where):
            past = _drop_later_lines(folder, start)
            samples.drop_later(folder, start)
            self._file = folder.append(METRICS)
        self._speed = Speed(folder, start)
        self._samples: TextIO | None = None
        self._total = total
        self._last = start  # the last step that was written
        tracked = Tracked(
            folder=folder,
            start=start,
            total=total,
            facts=facts or {},
            past=_past(past, samples.read(folder)) if report_to else (),
            say=say,
        )
        self._trackers = Trackers(report_to, tracked)
        self._bar = StepBar(start, total)  # last: what fails before it leaves no bar behind

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add values to the record. Each line is flushed, so a kill loses none that was written.

        Raises UserError for a value that is not finite, or where the disk refuses the line."""
        line = record.line_of(step, values)
        with at(self._where):
            self._file.write(line)
            self._file.flush()
        self._last = step
        self._trackers.write(step, values)

    def show(self, step: int, answers: list[dict[str, str]]) -> None:
        """Add the answers that were sampled at a step to samples.jsonl and the trackers.

        Raises UserError where the disk refuses them."""
        with at(self._folder.where(samples.SAMPLES)):
            if self._samples is None:
                self._samples = self._folder.append(samples.SAMPLES)
            self._samples.write(samples.lines_of(step, answers))
            self._samples.flush()
        self._trackers.show(step, answers)

    def begin_step(self) -> None:
        """A step begins."""
        self._speed.begin()

    def step(self, step: int, values: dict[str, float], tokens: int) -> None:
        """Add a training step's metrics to the record, and show them."""
        self.write(step, values)
        self._speed.step(step, tokens)
        self._bar.show(step, values, tokens)

    def say(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        say(text)

    def close(self) -> None:
        """Close the record and what shows it."""
        self._bar.close()
        # A line that the disk has refused is still in memory: that it is refused again was said already.
        for file in (self._file, self._samples):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        self._speed.close()
        self._trackers.close(finished=self._last == self._total)


def _drop_later_lines(folder: Store, start: int) -> list[dict[str, Any]]:
    """Keep the lines up to step `start`, and return them; none where it is 0: step 0 is measured again."""
    kept: list[dict[str, Any]] = []
    if start > 0:
        kept = [line for line in record.read(folder) if line["step"] <= start]
    folder.put(METRICS, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return kept


def _past(lines: Sequence[dict[str, Any]], sampled: Sequence[dict[str, Any]]) -> list[Past]:
    """What the record holds, a step at a time."""
    answers = samples.by_step(sampled)
    values: dict[int, dict[str, float]] = {}
    for line in lines:
        others = {name: value for name, value in line.items() if name != "step"}
        values.setdefault(line["step"], {}).update(others)
    return [Past(step, values[step], answers.get(step, ())) for step in sorted(values)]
