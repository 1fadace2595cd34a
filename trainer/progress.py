"""How far training is, on the screen: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Mapping

from schemas import terminal
from schemas.amounts import duration
from schemas.bars import Bars, Row
from schemas.screen import say

_SECONDS_BETWEEN_LINES = 10  # on a screen without a bar


class StepBar:
    """The steps from `start` to `total`, and what the last batch said of the policy.

    The time left is by the steps since the first one, which may wait for kernels to be compiled."""

    def __init__(self, start: int, total: int):
        self._start = start
        self._total = total
        self._step = start
        self._said: tuple[str, ...] = ()
        self._tokens = 0
        self._begun = time.monotonic()
        self._first_at: float | None = None  # when the first step was done
        self._line_shown = 0.0  # when, by the same clock
        self._bars: Bars | None = None
        if terminal.shows_bars():
            self._bars = Bars(self._drawn)

    def show(self, step: int, values: Mapping[str, float], tokens: int) -> None:
        """A step is done, with so many tokens."""
        now = time.monotonic()
        self._tokens += tokens
        self._step = step
        if self._first_at is None:
            self._first_at = now
        rate = self._tokens / max(1e-9, now - self._begun)
        self._said = (
            f"loss {values['loss']:.4f}",
            f"accuracy {values['rewards/accuracies']:.2f}",
            f"margin {values['rewards/margins']:.4f}",
            f"{rate:,.0f} tokens/s",
        )
        is_last = step == self._total
        is_due = now - self._line_shown > _SECONDS_BETWEEN_LINES
        if is_last or (self._bars is None and is_due):
            self._line_shown = now
            say(f"step {step}/{self._total}  {'  '.join(self._said)}")

    def _drawn(self) -> list[Row]:
        """The bar's row: what matters most first, since a narrow terminal has no room for the rest."""
        loss, accuracy, _, speed = self._said or ("", "", "", "")
        said = (f"step {self._step:,} of {self._total:,}", loss, self._left(), accuracy, speed)
        return [Row("training", self._step / max(1, self._total), said)]

    def _left(self) -> str:
        done = self._step - self._start - 1  # since the first
        if self._first_at is None or done < 1:
            return ""
        each = (time.monotonic() - self._first_at) / done
        left = each * (self._total - self._step)
        return f"{duration(left)} left" if left else ""

    def close(self) -> None:
        """Take the bar away."""
        if self._bars is not None:
            self._bars.close()
