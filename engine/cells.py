"""An answer's value as a text to be read: numbers short, long texts and lists cut off, with their length."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.printable import printable

_SHOWN_ITEMS = 6
_SMALLEST, _LARGEST = 1e-4, 1e16  # that are written without an exponent


def cell(value: Any, letters: int | None) -> str:
    """The value as text. `letters`: about so many are shown of a text, None for all of it and of a list.

    A text keeps its line breaks; within a list or an object it stands as JSON has it."""
    if isinstance(value, str):
        return _shortened(printable(value), letters)
    return _nested(value, letters)


def _nested(value: Any, letters: int | None) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number(value) if letters else str(value)
    if isinstance(value, str):
        return printable(json.dumps(_shortened(value, letters), ensure_ascii=False))
    if isinstance(value, Mapping):
        return _object(value, letters)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return _list(value, letters)
    return printable(str(value))


def number(value: float) -> str:
    """A number to four significant digits; all digits before the point stand."""
    size = abs(value)
    if math.isfinite(value) and 1e4 <= size < _LARGEST:
        return f"{value:.0f}"
    if size and not size >= _SMALLEST:
        return f"{value:.3e}"
    return f"{value:.4g}"


def _object(value: Mapping[Any, Any], letters: int | None) -> str:
    parts = [f"{printable(str(name))}: {_nested(item, letters)}" for name, item in value.items()]
    return "{" + ", ".join(parts) + "}"


def _list(values: Sequence[Any], letters: int | None) -> str:
    shown = values if letters is None else values[:_SHOWN_ITEMS]
    parts = [_nested(item, letters) for item in shown]
    if len(shown) < len(values):
        parts.append(f"… {len(values):,} in all")
    return "[" + ", ".join(parts) + "]"


def _shortened(text: str, letters: int | None) -> str:
    if letters is None or len(text) <= letters:
        return text
    said = f"… ({len(text):,} characters)"
    return text[: max(1, letters - len(said))] + said
