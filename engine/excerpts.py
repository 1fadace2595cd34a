"""What messages show of data: a few of a model's answers, and how often something stands in a column."""

from collections.abc import Sequence

import pyarrow as pa

_SHOWN_WORDS = 3
_WORD_LETTERS = 120


def some_words(texts: Sequence[str | None]) -> str:
    """A few of a model's answers, to be read in a message."""
    shown: list[str] = []
    for text in texts:
        if text is not None and len(shown) < _SHOWN_WORDS:
            short = text if len(text) <= _WORD_LETTERS else text[:_WORD_LETTERS] + "…"
            shown.append(repr(short))
    return ", ".join(shown) or "nothing"


def counted(values: pa.ChunkedArray) -> str:
    """How often each value stands in a column, the most frequent first: `tie 3, no_score 1`."""
    counts: dict[str, int] = {}
    for value in values.to_pylist():
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{value} {count:,}" for value, count in by_count)
