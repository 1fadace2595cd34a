"""Short tables that sum up a run: a row for each stage, each way of measuring, each training.

Nothing in them is cut off. Texts are wrapped where the terminal is narrow; where even that leaves no room,
rows are shown one below the other. Numbers are never wrapped. Without a terminal a row stays on its line.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.screen import encodable
from schemas.screen_tables import FRAME, cell
from schemas.terminal import as_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

SummaryRow = Mapping[str, object]  # column -> its value, the same columns in every row

_WITHOUT_TERMINAL = 100_000  # columns
_LONGEST_WORD = 24  # characters that stand together where there is room for them; a longer word is folded
_SIDES = 3  # columns of the frame that each column takes
# Rows, as rich wants them: top, head, below the head, row, between rows, foot's, bottom.
_FRAMED = "┌─┬┐\n│ ┆│\n╞═╪╡\n│ ┆│\n├─┼┤\n├─┼┤\n│ ┆│\n└─┴┘\n"
_IN_ASCII = "+-++\n| ||\n+=++\n| ||\n+-++\n+-++\n| ||\n+-++\n"


@dataclass
class _Column:
    """A column: its name and its words; how wide it is now and how wide its words are, unwrapped; and how
    narrow it may become."""

    name: str
    words: list[str]
    is_number: bool
    width: int
    of_words: int
    least: int


def as_summary(rows: Sequence[SummaryRow]) -> str:
    """The rows as text for standard output. It is made printable; it may hold colours of our own."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WITHOUT_TERMINAL
    columns = [_column(name, rows) for name in rows[0]]
    fits = _narrow(columns, width - 1)
    return as_text(_table(columns) if fits else _records(columns, width), width)


def _column(name: str, rows: Sequence[SummaryRow]) -> _Column:
    from rich.cells import cell_len

    values = [row[name] for row in rows]
    is_number = all(isinstance(value, int | float) for value in values)
    words = [cell(_shown(value)) for value in values]
    head = cell(name)
    of_words = max(cell_len(line) for line in "\n".join(words).split("\n"))
    single = head.split()
    for word in words:
        single += [word] if is_number else word.split()
    least = max((cell_len(word) if is_number else min(_LONGEST_WORD, cell_len(word))) for word in single)
    return _Column(head, words, is_number, max(of_words, cell_len(head)), of_words, least)


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _narrow(columns: Sequence[_Column], room: int) -> bool:
    """Make columns narrower until all have room; False where they cannot have it.

    Their names are wrapped first, then the widest."""
    room -= len(columns) * _SIDES
    if sum(column.least for column in columns) > room:
        return False
    if sum(column.width for column in columns) > room:
        for column in columns:
            column.width = max(column.least, column.of_words)
    while sum(column.width for column in columns) > room:
        can_shrink = [column for column in columns if column.width > column.least]
        max(can_shrink, key=lambda column: column.width).width -= 1
    return True


def _table(columns: Sequence[_Column]) -> "RenderableType":
    from rich.box import Box
    from rich.table import Table

    box = Box(_FRAMED) if encodable(FRAME) == FRAME else Box(_IN_ASCII, ascii=True)
    table = Table(box=box, header_style="name", safe_box=False)
    for column in columns:
        table.add_column(
            _text(column.name),
            width=column.width,
            justify="right" if column.is_number else "left",
            overflow="fold",
        )
    for cells in zip(*(column.words for column in columns), strict=True):
        table.add_row(*map(_text, cells))
    return table


def _records(columns: Sequence[_Column], width: int) -> "RenderableType":
    """Each row as a block of lines, a column on each: its name and its value."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="quiet", overflow="fold", max_width=width // 2)
    grid.add_column(overflow="fold")
    for place in range(len(columns[0].words)):
        if place:
            grid.add_row("", "")
        for column in columns:
            grid.add_row(_text(column.name), _text(column.words[place]))
    return grid


def _text(words: str) -> "Text":
    from rich.text import Text

    return Text(words)
