"""Rows too wide for a table, one below the other: a line for each column, as psql's expanded display."""

import textwrap
from collections.abc import Iterator, Sequence

_WIDEST_NAME = 32
_GAP = "  "


def as_records(names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """The rows as text of at most `width` characters a line, as far as names allow it.

    `rows`: the texts of the columns, row by row. Line breaks in them are kept, below the column's name."""
    longest = max(map(len, names), default=0)
    indent = min(longest, _WIDEST_NAME) + len(_GAP)
    room = max(20, width - indent)
    lines: list[str] = []
    for number, row in enumerate(rows, 1):
        lines.append(f"── row {number:,} of {len(rows):,} ".ljust(min(width, 72), "─"))
        for name, text in zip(names, row, strict=True):
            first, *more = _wrapped(text, room)
            lines.append(f"{name:<{indent}}{first}".rstrip())
            lines += [(" " * indent + line).rstrip() for line in more]
    return "\n".join(lines)


def _wrapped(text: str, room: int) -> list[str]:
    """A text's lines, long ones broken between words where there are any; at least one."""
    return list(_lines(text, room)) or [""]


def _lines(text: str, room: int) -> Iterator[str]:
    for line in text.split("\n"):
        yield from textwrap.wrap(line, room, replace_whitespace=False, drop_whitespace=False) or [""]
