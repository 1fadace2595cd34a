"""Which words two texts differ in, to be shown. Training's edit masks are over token ids: engine/edits.py."""

import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple

_WORD = re.compile(r"\w+|\s+|[^\w\s]")


class Piece(NamedTuple):
    """Part of a text. `is_own`: the other text has it not."""

    text: str
    is_own: bool


def word_edits(first: str, second: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces, which joined are the texts."""
    ours, theirs = _WORD.findall(first), _WORD.findall(second)
    matcher = difflib.SequenceMatcher(None, ours, theirs, autojunk=False)
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    for operation, begin, end, other_begin, other_end in matcher.get_opcodes():
        is_own = operation != "equal"
        _add(pieces[0], ours[begin:end], is_own)
        _add(pieces[1], theirs[other_begin:other_end], is_own)
    return pieces


def _add(pieces: list[Piece], words: Sequence[str], is_own: bool) -> None:
    if words:
        pieces.append(Piece("".join(words), is_own))
