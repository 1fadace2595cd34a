"""Progress on the screen: bars on a terminal, a line now and then elsewhere."""

import threading
import time
from collections.abc import Mapping

from engine.clocks import Spent
from engine.progress import Meter, StageRow, Work
from schemas import terminal
from schemas.amounts import duration, rounded
from schemas.bars import Bars, Row
from schemas.manifest import Marker
from schemas.screen import note

# Seconds between two lines where the output is no terminal: a tenth of the time passed, within these.
_LINE_SECONDS = (10.0, 60.0)


class _Lines:
    """When the next line is due."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._last = self._begun

    def is_due(self) -> bool:
        """True if a line may be printed now, which is then taken for printed."""
        now = time.monotonic()
        least, most = _LINE_SECONDS
        if now - self._last < min(max((now - self._begun) / 10, least), most):
            return False
        self._last = now
        return True


class RowsBar:
    """Rows that were read, of which nobody knows how many there are."""

    def __init__(self, what: str):
        self._what = what
        self._rows = 0
        self._lines = _Lines()
        self._begun = time.monotonic()
        self._bars: Bars | None = None
        if terminal.shows_bars():
            self._bars = Bars(self._drawn)

    def advance(self, rows: int) -> None:
        """So many more are read."""
        self._rows += rows
        if self._bars is None and self._lines.is_due():
            note(f"{self._what}: {', '.join(self._said())}")

    def _said(self) -> tuple[str, str]:
        speed = self._rows / max(1e-9, time.monotonic() - self._begun)
        return f"{self._rows:,} rows", f"{speed:,.0f} rows/s"

    def _drawn(self) -> list[Row]:
        return [Row(self._what, None, self._said())]

    def close(self) -> None:
        if self._bars is not None:
            self._bars.close()


class MakingBar:
    """Implements `engine.progress.Progress`: what stages make, how fast, and how long it will still take."""

    def __init__(self, shards: Mapping[str, int]):
        """`shards`: stage -> how many of its shards are to be made."""
        self._meter = Meter(shards)
        self._lock = (
            threading.Lock()
        )  # several shards may be under way in threads, and the bars have their own
        self._lines = _Lines()
        self._bars: Bars | None = None
        if terminal.shows_bars():
            self._bars = Bars(self._drawn)

    def shard_done(self, stage: str, marker: Marker) -> None:
        with self._lock:
            self._meter.shard_done(stage)
            self._show()

    def work(self, work: Work) -> None:
        with self._lock:
            self._meter.add(work)
            self._show()

    def _show(self) -> None:
        if self._bars is None and self._lines.is_due():
            note(f"making: {self._text()}")

    def _text(self) -> str:
        said = self._meter.text()
        shards = self._meter.shards_text()
        return f"{said}; {shards}" if said else shards

    def spent(self) -> dict[str, Spent]:
        """What each stage has done so far."""
        with self._lock:
            return self._meter.spent()

    def _drawn(self) -> list[Row]:
        """A row for each stage under way, and one for all shards."""
        with self._lock:
            rows = [_row_of(stage) for stage in self._meter.under_way()]
            left = self._meter.seconds_left()
            said = (self._meter.shards_text(), _left(left), "")
            rows.append(Row("all", self._meter.fraction(), said))
        return rows

    def close(self) -> None:
        """Take the bars away, and say what each stage did with its model."""
        if self._bars is not None:
            self._bars.close()
        with self._lock:
            for line in self._meter.summary():
                note(line)


def _row_of(stage: StageRow) -> Row:
    about = "" if stage.is_known else "~"
    speed = f"{rounded(stage.tokens_a_second)} tokens/s" if stage.tokens_a_second else ""
    said = (f"{stage.done:,} of {about}{stage.total:,} {stage.unit}", _left(stage.seconds_left), speed)
    return Row(stage.stage, stage.share, said)


def _left(seconds: float | None) -> str:
    return f"{duration(seconds)} left" if seconds else ""
