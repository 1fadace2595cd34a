"""The metrics of a run's trainings as a table: a row for each training, step and name.

A training writes them as JSON lines (trainer/metrics.py), which may be cut off at the end while it runs. What
is no number is left out.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.manifest import METRICS
from schemas.store import Store

NAME = "metrics"


def _column(name: str, kind: pa.DataType, comment: str) -> pa.Field:
    return pa.field(name, kind, metadata={"comment": comment})


SCHEMA = pa.schema(
    [
        _column("run", pa.string(), "name of the training's folder"),
        _column("step", pa.int64(), "after which it was measured; 0: before the first"),
        _column(
            "name",
            pa.string(),
            "by TRL's names: loss, rewards/margins, logps/chosen, grad_norm …; eval_…: of the pairs held out",
        ),
        _column("value", pa.float64(), "a mean over the step's pairs; rewards and log-probs in nat"),
    ]
)
_TRAININGS = "train-*"
_STEP = "step"


def metrics_of(run: Store) -> pa.Table:
    """The metrics of all trainings in a run folder, in the order of their folders, steps and lines."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for folder in run.names(_TRAININGS):
        training = run.child(folder)
        if not training.exists(METRICS):
            continue
        for line in training.read(METRICS).splitlines():
            for step, name, value in _values_in(line):
                for column, cell in zip(SCHEMA.names, (folder, step, name, value), strict=True):
                    columns[column].append(cell)
    return pa.table(columns, schema=SCHEMA)


def _values_in(line: bytes) -> list[tuple[int, str, float]]:
    """The step, name and value of each number in a line; nothing of one that is not whole."""
    try:
        measured = json.loads(line)
    except (ValueError, RecursionError):
        return []
    step = measured.get(_STEP) if isinstance(measured, dict) else None
    if not _is_number(step) or not isinstance(step, int):
        return []
    found: list[tuple[int, str, float]] = []
    for name, value in measured.items():
        if name != _STEP and _is_number(value):
            found.append((step, name, float(value)))
    return found


def _is_number(value: object) -> bool:
    """Whether a value is a number that a column of its kind can hold."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float)


def write(run: Store, folder: Path) -> list[str]:
    """Write the table into a folder, for a process that queries it; the paths of its files."""
    rows = metrics_of(run)
    if not len(rows):
        return []
    path = folder / "metrics.parquet"
    pq.write_table(rows, path, write_page_checksum=True)
    return [str(path)]
