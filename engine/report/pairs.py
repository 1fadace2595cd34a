"""A pair as the page has it: its texts, made printable, what is changed in them, its tokens and its scores.

Places in a text are counted in code points.
"""

from collections.abc import Sequence
from typing import Any

from engine.story.tokens import Tokens
from engine.story.word_edits import Piece, word_edits
from schemas.printable import one_line, printable

Row = dict[str, Any]
# Longer texts are cut off in the page: `engine show` has them whole.
MOST_LETTERS = 20_000
_MOST_TOKENS = 6_000
_MOST_TURNS = 30  # the last ones
_SIDES = ("chosen", "rejected")


def for_page(row: Row, tokens: Tokens | None) -> Row:
    """A row of sample.py as the page's script takes it. `tokens`: None where the tokenizer is not here."""
    texts = {side: _cut(row[side]) for side in _SIDES}
    edits = dict(zip(_SIDES, word_edits(texts["chosen"], texts["rejected"]), strict=True))
    found: Row = {
        "id": row["pair_id"],
        "prompt_id": row["prompt_id"],
        "turns": _turns(row),
        "from": _origin(row),
        "split": one_line(row["split"] or ""),
        "source": one_line(row["source"] or ""),
        "score": _difference(row["chosen_score"], row["rejected_score"]),
        "ref": _difference(row["ref_chosen_logps"], row["ref_rejected_logps"]),
        "changed": max(_words_alone(edits[side]) for side in _SIDES),
    }
    for side in _SIDES:
        found[side] = _side(row, side, texts[side], edits[side], tokens)
    return found


def _side(row: Row, side: str, text: str, pieces: Sequence[Piece], tokens: Tokens | None) -> Row:
    logps = row[f"ref_{side}_logps"]
    found: Row = {
        "text": text,
        "own": _own_ranges(pieces),
        "length": row[f"{side}_length"],
        "logps": None if logps is None else _short(logps),
        "scores": {one_line(name): _short(score) for name, score in row[f"{side}_scores"] or []},
    }
    ids, token_logps = row[f"{side}_ids"], row[f"ref_{side}_token_logps"]
    if tokens is not None and ids and token_logps and len(ids) == len(token_logps):
        texts = [printable(part) for part in tokens.texts(ids[:_MOST_TOKENS])]
        found["tokens"] = [len(part) for part in texts]
        found["token_logps"] = [round(value, 2) for value in token_logps[:_MOST_TOKENS]]
        joined = "".join(texts)
        if joined != text:  # its end token, or another template's blanks
            found["token_text"] = joined
    return found


def _turns(row: Row) -> list[list[str]]:
    """The prompt as [role, text]."""
    messages = row.get("messages") or [{"role": "user", "content": row["prompt"] or ""}]
    return [[one_line(turn["role"]), _cut(turn["content"] or "")] for turn in messages[-_MOST_TURNS:]]


def _origin(row: Row) -> str:
    """The input file and line that the prompt was first seen in."""
    return f"{one_line(row['file'])} line {row['line']:,}" if row.get("file") else ""


def _cut(text: str | None) -> str:
    """The text, printable, and not longer than a page has room for."""
    text = text or ""
    if len(text) > MOST_LETTERS:
        text = text[:MOST_LETTERS] + f"… ({len(text):,} characters)"
    return printable(text)


def _own_ranges(pieces: Sequence[Piece]) -> list[list[int]]:
    """[begin, end] of each part that the other text has not."""
    ranges: list[list[int]] = []
    place = 0
    for piece in pieces:
        if piece.is_own:
            ranges.append([place, place + len(piece.text)])
        place += len(piece.text)
    return ranges


def _words_alone(pieces: Sequence[Piece]) -> int:
    """How many words the other text has not."""
    return sum(len(piece.text.split()) for piece in pieces if piece.is_own)


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else _short(one - other)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
