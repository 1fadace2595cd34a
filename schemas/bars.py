"""Bars on a terminal: a row for each thing that is under way, drawn anew four times a second.

A row has a name, a bar, and columns of words, what matters most first. Where the terminal is narrow the bar
gets short, and then the last columns are left out; nothing is broken into two lines.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas import terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

_BAR = (6, 24)  # the columns of a bar, at least and at most
_GAP = 2  # columns between two columns


@dataclass(frozen=True)
class Row:
    """One thing under way. `share`: how much is done, from 0 to 1; None where nobody knows how much there is.

    `said`: what stands behind the bar; an empty text keeps its place."""

    name: str
    share: float | None
    said: Sequence[str]


class Bars:
    """Rows on the error output's terminal, from now until `close`; lines printed meanwhile stand above."""

    def __init__(self, rows: Callable[[], Sequence[Row]]):
        """`rows` is asked from a thread of its own."""
        live = terminal.live(lambda width: drawn_rows(rows(), width), sys.stderr)
        self._shown = ExitStack()
        self._shown.enter_context(terminal.drawn(live))

    def close(self) -> None:
        """Take the bars away."""
        self._shown.close()


def drawn_rows(rows: Sequence[Row], width: int) -> "RenderableType":
    """The rows as a grid that is no wider than `width` columns."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    columns, bar = _fitting(rows, width)
    grid = Table.grid(padding=(0, _GAP, 0, 0), pad_edge=False)
    for _ in range(columns + 2):
        grid.add_column(no_wrap=True, overflow="ellipsis")
    for row in rows:
        drawn = ProgressBar(
            total=None if row.share is None else 1.0,
            completed=row.share or 0.0,
            width=bar,
            pulse=row.share is None,
            animation_time=time.monotonic(),
        )
        words = [terminal.text(said) for said in row.said[:columns]]
        grid.add_row(terminal.text(row.name, "name"), drawn, *words)
    return grid


def _fitting(rows: Sequence[Row], width: int) -> tuple[int, int]:
    """How many columns behind the bar there is room for, and how wide the bar is."""
    least, most = _BAR
    name = max((len(row.name) for row in rows), default=0)
    widths: list[int] = []
    for row in rows:
        widths += [0] * (len(row.said) - len(widths))
        for place, said in enumerate(row.said):
            widths[place] = max(widths[place], len(said))
    room = width - 1 - name - _GAP
    columns = len(widths)
    while columns > 1 and sum(widths[:columns]) + columns * _GAP + least > room:
        columns -= 1
    left = room - sum(widths[:columns]) - columns * _GAP
    return columns, min(max(left, least), most)
