"""Progress on the screen: a bar on a terminal, a line now and then elsewhere."""

import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from engine.clocks import Spent
from engine.progress import Meter, Work
from schemas.manifest import Marker
from schemas.printable import one_line
from schemas.screen import say

# Seconds between two lines where the output is no terminal: a tenth of the time passed, within these.
_LINE_SECONDS = (10.0, 60.0)
_PARTS = 1000  # of a bar that shows a share


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
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                desc=one_line(what), unit=" rows", unit_scale=True, dynamic_ncols=True, leave=False
            )

    def advance(self, rows: int) -> None:
        """So many more are read."""
        self._rows += rows
        if self._bar is not None:
            self._bar.update(rows)
        elif self._lines.is_due():
            speed = self._rows / (time.monotonic() - self._begun)
            say(f"{self._what}: {self._rows:,} rows, {speed:,.0f} rows/s", err=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class MakingBar:
    """Implements `engine.progress.Progress`: what stages make, how fast, and how long it will still take."""

    def __init__(self, shards: Mapping[str, int]):
        """`shards`: stage -> how many of its shards are to be made."""
        self._meter = Meter(shards)
        self._lock = threading.Lock()  # several shards may be under way in threads
        self._lines = _Lines()
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                desc=one_line(self._text()),
                total=_PARTS,
                dynamic_ncols=True,
                leave=False,
                bar_format="{percentage:3.0f}%|{bar:10}| {desc}",
            )

    def shard_done(self, stage: str, marker: Marker) -> None:
        with self._lock:
            self._meter.shard_done(stage)
            self._show()

    def work(self, work: Work) -> None:
        with self._lock:
            self._meter.add(work)
            self._show()

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.n = round(_PARTS * self._meter.fraction())
            self._bar.set_description_str(one_line(self._text()), refresh=False)
            self._bar.update(0)
        elif self._lines.is_due():
            say(f"making: {self._text()}", err=True)

    def _text(self) -> str:
        said = self._meter.text()
        shards = self._meter.shards_text()
        return f"{said}; {shards}" if said else shards

    def spent(self) -> dict[str, Spent]:
        """What each stage has done so far."""
        with self._lock:
            return self._meter.spent()

    def close(self) -> None:
        """Take the bar away, and say what each stage did with its model."""
        if self._bar is not None:
            self._bar.close()
        with self._lock:
            for line in self._meter.summary():
                say(line, err=True)
