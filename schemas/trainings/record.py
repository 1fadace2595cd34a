"""What a run leaves of itself, read strictly: metrics.jsonl, and the manifest of a finished run.

metrics.jsonl has a line for each step and for each evaluation. A kill can cut off the last line, and nothing
else: any other line that is not one of ours was changed by the disk or a person, and is not left out in
silence.
"""

import hashlib
import json
import math
from typing import Any

from schemas.errors import UserError
from schemas.manifest import MANIFEST, METRICS, json_bytes
from schemas.sealed import unsealed
from schemas.store import Store

DIGEST = "record"  # the key of the manifest with the sha256 of metrics.jsonl

_REMEDY = (
    f"delete this line (and manifest.json beside {METRICS}, if it is there) to go on without it, "
    "or train again with --no-resume"
)


def read(folder: Store) -> list[dict[str, Any]]:
    """The whole lines of a train folder's record in order; none where there is no record.

    Raises UserError for a line that is damaged, or holds what is not a finite number."""
    if not folder.exists(METRICS):
        return []
    texts = folder.read(METRICS).split(b"\n")
    cut_off = texts.pop()
    lines: list[dict[str, Any]] = []
    step = 0
    for number, text in enumerate(texts, 1):
        line = _line(text)
        if isinstance(line, str) or line["step"] < step:
            problem = line if isinstance(line, str) else f"step {line['step']} after step {step}"
            raise UserError(f"{folder.where(METRICS)}, line {number}: {problem}: {_REMEDY}")
        step = line["step"]
        lines.append(line)
    last = _line(cut_off)
    if not isinstance(last, str) and last["step"] >= step:
        lines.append(last)  # whole but for its end of line
    return lines


def _line(text: bytes) -> dict[str, Any] | str:
    """A line's values, or what is wrong with it."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return "damaged, not JSON any more"
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return "damaged, it says no step"
    for name, value in line.items():
        if not isinstance(value, int | float):
            return f"damaged, {name} is no number"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name} is {value} at step {line['step']}, so that nothing after it can be trusted"
    return line


def line_of(step: int, values: dict[str, float]) -> str:
    """A line of the record. Raises UserError, which names the metric, for a value that is not finite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} is {value} at step {step}, and is not written: lower train.learning_rate, "
                "or train in float32 (train.dtype)"
            )
    return json.dumps({"step": step} | values, allow_nan=False) + "\n"


def manifest(folder: Store) -> dict[str, Any] | None:
    """The manifest of a finished run; None where there is none, or where it is not as it was written."""
    if not folder.exists(MANIFEST):
        return None
    data = folder.read(MANIFEST)
    try:
        value = json.loads(data)
    except ValueError:
        return None
    if not isinstance(value, dict) or data != json_bytes(value):
        return None
    return unsealed(value)


def weights(folder: Store, step: int) -> str | None:
    """The digest of a step's weights that the manifest names; None where it names none."""
    found = manifest(folder) or {}
    if found.get("steps") != step:
        return None
    digest = found.get("weights")
    return digest if isinstance(digest, str) else None


def check(folder: Store, manifest: dict[str, Any] | None) -> None:
    """Raise UserError where a finished run's metrics.jsonl is not the one that its manifest names."""
    if manifest is None or DIGEST not in manifest:
        return
    where = folder.where(METRICS)
    remedy = f"train again with --no-resume, or delete {MANIFEST} beside it to take it as it is"
    if not folder.exists(METRICS):
        raise UserError(f"{where} is gone: {remedy}")
    if hashlib.sha256(folder.read(METRICS)).hexdigest() != manifest[DIGEST]:
        raise UserError(f"{where} is not as it was written, its sha256 is another: {remedy}")
