"""Scores by a function of the user's: an exact checker where the truth is known, or a reward of one's own.

- Its scorer is `check`.
- What the function cannot judge is a null score, so no response is lost: it raises, or gives None or a number
  that is not finite. What it raises is a reject as well.
"""

import functools
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow as pa

from engine import queries
from engine.rejects import Reject, rejects_table
from engine.stage import Context, Made, Planning, Stage
from schemas.digest import sha256_file
from schemas.errors import UserError, did_you_mean
from schemas.manifest import Facts
from schemas.sections import Check
from schemas.tables import table

# (messages, response) -> the score, or None where it has no opinion.
CheckFunction = Callable[[list[dict[str, str]], str], float | None]


def facts(config: Check, planning: Planning) -> Facts:
    """The function's name and the digest of its source file. Raises UserError where it has none."""
    name = config.function
    function = load(name)
    # The module's file, not the function's: what scores may be any object that can be called.
    place = name.rpartition(":")[0]
    file: str | None = place
    if not place.endswith(".py"):
        file = getattr(sys.modules.get(place), "__file__", None)
    if not file or not callable(function):
        raise UserError(
            f"{config.title()} function = '{name}': {place} has no source file, so that its scores could not "
            "be told from those of another version; wrap it in a file of your own"
        )
    return {
        "function": name.rsplit("/", 1)[-1],
        "source": sha256_file(Path(file)),
    }


@functools.cache
def load(name: str) -> CheckFunction:
    """The function that package.module:name or path/file.py:name means.

    Raises UserError where its module does not import or does not have it."""
    place, colon, function_name = name.rpartition(":")
    if not colon or not place or not function_name:
        raise UserError(f"[check] function = '{name}': expected package.module:name or path/file.py:name")
    try:
        module = _import(place)
    except Exception as error:
        raise UserError(
            f"[check] function = '{name}': {place} does not import: {type(error).__name__}: {error}"
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise UserError(
            f"[check] function = '{name}': {place} has no function {function_name}; "
            f"{did_you_mean(function_name, known)}"
        )
    return function


def _import(place: str) -> ModuleType:
    """A module by its name, or by the path of its file."""
    if not place.endswith(".py"):
        return importlib.import_module(place)
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)
    spec.loader.exec_module(module)
    return module


def make(batch: pa.Table, config: Check, context: Context) -> Made:
    """One score a response, null where the function has none."""
    function = load(config.function)
    texts = batch["text"].to_pylist()
    scores: list[float | None] = []
    rejects: list[Reject] = []
    for row, (messages, text) in enumerate(zip(batch["messages"].to_pylist(), texts, strict=True)):
        # A user's code may raise anything, and one odd response must not stop a run of millions.
        try:
            scores.append(_finite(function(messages, text)))
        except Exception as error:
            scores.append(None)
            rejects.append(Reject(row, "check_failed", f"{type(error).__name__}: {error}"))
    columns = {
        "prompt_id": batch["prompt_id"],
        "response_id": batch["response_id"],
        "scorer": ["check"] * len(batch),
        "score": scores,
    }
    tables = {
        "scores": table("scores", columns),
        "rejects": rejects_table("check", rejects, batch, texts),
    }
    counts = {
        "checked": len(batch),
        "unscored": scores.count(None),
        "rejects": len(rejects),
    }
    return Made(tables, counts)


def _finite(score: float | None) -> float | None:
    """The score as a float, None where it is no finite number."""
    if score is None or not math.isfinite(score):
        return None
    return float(score)


STAGE = Stage(
    name="check",
    version=1,
    reads=("prompts", "responses"),
    writes=("scores", "rejects"),
    query=queries.used_responses("text"),
    fn=make,
    facts=facts,
)
