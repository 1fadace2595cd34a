"""A row as text, checked once and strictly: a JSON object, or the reason why it is none.

orjson refuses what Arrow would later fail on for a whole batch.
"""

import json
import re
from dataclasses import dataclass

import orjson

from engine.column_names import is_finite
from engine.json_rows import EXCERPT_BYTES, Piece
from engine.row_problem import of_error


@dataclass(frozen=True, slots=True)
class Row:
    """One input row. `text` is a JSON object; or `reason` says why not, and `text` is what was read."""

    file: str
    line: int
    text: str
    reason: str | None = None
    detail: str | None = None
    # Of a row that is refused for NaN or Infinity and nothing else: the columns that hold it.
    not_finite: tuple[str, ...] = ()


def checked_row(name: str, line: int, piece: Piece) -> Row:
    """A row whose text is a JSON object, or a row with the reason why it is none, whatever that is."""
    try:
        return _checked(name, line, piece)
    except AssertionError:
        raise
    except Exception as error:
        problem = of_error(error)
        begin = piece.raw[:EXCERPT_BYTES].decode(errors="backslashreplace")
        return Row(name, line, begin, problem.code, problem.sentence)


def _checked(name: str, line: int, piece: Piece) -> Row:
    text = piece.raw.strip().decode("utf-8", errors="backslashreplace")
    if piece.reason:
        return Row(name, line, text, piece.reason, piece.detail)
    try:
        value = orjson.loads(piece.raw)
    except orjson.JSONDecodeError as error:
        reason = _reason_of_json_error(piece.raw, str(error))
        not_finite = not_finite_columns(text) if reason == "nan" else ()
        detail = place_of_bad_utf8(piece.raw) or str(error)
        return Row(name, line, text, reason, detail, not_finite)
    if not isinstance(value, dict):
        detail = f"a row must be a JSON object, not {type(value).__name__}"
        return Row(name, line, text, "not_an_object", detail)
    return Row(name, line, text)


def _reason_of_json_error(raw: bytes, message: str) -> str:
    """The reason that a reject is counted under, from orjson's message and the row's bytes."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "bad_utf8"
    if "surrogate" in message:
        return "lone_surrogate"
    if "infinity" in message or re.search(rb"[:,\[]\s*(NaN|-?Infinity)\b", raw):
        return "nan"
    return "bad_json"


def place_of_bad_utf8(raw: bytes) -> str | None:
    """Which byte of a row is the first that is not UTF-8; None where all are."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        bad = raw[error.start : error.start + 1].hex()
        return f"not UTF-8: byte {error.start + 1} of the row is 0x{bad}"
    return None


def not_finite_columns(text: str) -> tuple[str, ...]:
    """The columns of a row that hold NaN or Infinity, as Python's JSON writes them.

    None where that is not all that is wrong with the row."""
    try:
        value = json.loads(text)
        names = tuple(name for name, inner in value.items() if not is_finite(inner))
        others = {name: inner for name, inner in value.items() if name not in names}
        orjson.loads(json.dumps(others))
    except (ValueError, AttributeError, RecursionError):
        return ()
    return names
