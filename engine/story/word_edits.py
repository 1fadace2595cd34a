"""Which words two texts differ in, to be shown. Training's edit masks are over token ids: engine/edits.py."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from rapidfuzz.distance import Indel

_WORD = re.compile(r"\w+|\s+|[^\w\s]")


class Piece(NamedTuple):
    """Part of a text. `is_own`: the other text has it not."""

    text: str
    is_own: bool


class _Step(NamedTuple):
    """Words of both texts: the same ones, or what each has in place of the other's."""

    ours: str
    theirs: str
    is_equal: bool


def word_edits(first: str, second: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces, which joined are the texts."""
    ours, theirs = _WORD.findall(first), _WORD.findall(second)
    steps: list[_Step] = []
    for code in Indel.opcodes(ours, theirs):
        our_words = "".join(ours[code.src_start : code.src_end])
        their_words = "".join(theirs[code.dest_start : code.dest_end])
        steps.append(_Step(our_words, their_words, code.tag == "equal"))
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    for place, step in enumerate(steps):
        is_own = not step.is_equal or _is_only_between(steps, place)
        _add(pieces[0], step.ours, is_own)
        _add(pieces[1], step.theirs, is_own)
    return pieces


def _is_only_between(steps: Sequence[_Step], place: int) -> bool:
    """True for blanks between two changes: whoever reads them sees one change."""
    return not steps[place].ours.strip() and 0 < place < len(steps) - 1


def _add(pieces: list[Piece], text: str, is_own: bool) -> None:
    """Add a text to the pieces, to the last one if it is of the same kind."""
    if not text:
        return
    if pieces and pieces[-1].is_own == is_own:
        text = pieces.pop().text + text
    pieces.append(Piece(text, is_own))
