"""How fast a training run was, and how much memory it took: clock.jsonl in its folder, a line for each step.

It is kept apart from metrics.jsonl, which holds nothing that depends on the clock, and it is no part of what
the run made: no digest covers it, and a run without it is a whole run.
"""

import json
import math
from typing import TYPE_CHECKING

from schemas.store import Store

if TYPE_CHECKING:
    import polars as pl

CLOCK = "clock.jsonl"
# Columns of `read` beside `step`.
TOKENS_PER_SECOND = "tokens_per_second"
MEMORY = "memory"  # GiB


def line_of(step: int, seconds: float, tokens: int, memory: int) -> str:
    """A line of the file: what a step took, and the most memory (bytes) that the process has held so far."""
    values = {"step": step, "seconds": round(seconds, 6), "tokens": tokens, "memory": memory}
    return json.dumps(values, allow_nan=False) + "\n"


def read(folder: Store) -> "pl.DataFrame":
    """Columns step, tokens_per_second and memory (GiB), the last line of each step; lines that are damaged
    are left out."""
    import polars as pl  # which a machine that only trains may lack

    rows: dict[int, dict[str, float]] = {}
    lines = folder.read(CLOCK).splitlines() if folder.exists(CLOCK) else []
    for text in lines:
        row = _row(text)
        if row is not None:
            rows[int(row["step"])] = row
    types = {"step": pl.Int64, TOKENS_PER_SECOND: pl.Float64, MEMORY: pl.Float64}
    return pl.DataFrame(list(rows.values()), schema=types).sort("step")


def _row(text: bytes) -> dict[str, float] | None:
    """A line's values; None where it is none of ours."""
    try:
        line = json.loads(text)
        step, seconds = line["step"], float(line["seconds"])
        speed = float(line["tokens"]) / seconds
        memory = float(line["memory"]) / 2**30
    except (ValueError, RecursionError, TypeError, KeyError, ArithmeticError):
        return None
    is_step = type(step) is int and 0 <= step < 2**63
    if not is_step or not all(map(math.isfinite, (seconds, speed, memory))):
        return None
    return {"step": step, TOKENS_PER_SECOND: speed, MEMORY: memory}
