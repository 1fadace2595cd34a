"""Scores by a function of the user's: an exact checker where the truth is known, or a reward of one's own.

- Its scorer is `check`.
- What the function cannot judge is a null score, so no response is lost: it raises, or gives None or a number
  that is not finite. What it raises is a reject as well.
- With `batch_size` it is given lists. Where a batch fails, its responses are given again, one at a time.
- A function that has a parameter `reference` is given the right answer that the data brings, or None.
"""

import functools
import importlib
import importlib.util
import inspect
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from engine import queries
from engine.rejects import Reject, rejects_table
from engine.stage import Context, Made, Planning, Stage
from schemas.digest import sha256_file
from schemas.errors import UserError, did_you_mean
from schemas.manifest import Facts
from schemas.sections import Check
from schemas.tables import table

# (messages, response) -> the score, or None where it has no opinion; with batch_size lists of each.
CheckFunction = Callable[..., Any]
Messages = list[dict[str, str]]


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
    own: Facts = {
        "function": name.rsplit("/", 1)[-1],
        "source": sha256_file(Path(file)),
    }
    # Only where they are set, so that folders made without them keep their names.
    if config.batch_size:
        own["batch_size"] = config.batch_size
    if _wants_reference(function):
        own["reference"] = True
    return own


def _wants_reference(function: CheckFunction) -> bool:
    """True if the function has a parameter of that name."""
    try:
        return "reference" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # what is written in C may have none to be looked at
        return False


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


@dataclass(frozen=True)
class _Asked:
    """What the function is given of a response."""

    row: int
    messages: Messages
    response: str
    reference: str | None


def make(batch: pa.Table, config: Check, context: Context) -> Made:
    """One score a response, null where the function has none."""
    texts: list[str] = batch["text"].to_pylist()
    asked: list[_Asked] = []
    columns_asked = (batch["messages"].to_pylist(), texts, batch["reference"].to_pylist())
    for row, (messages, text, reference) in enumerate(zip(*columns_asked, strict=True)):
        asked.append(_Asked(row, messages, text, reference))
    scores, rejects = _scores(asked, load(config.function), config.batch_size)
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


def _scores(
    asked: Sequence[_Asked], function: CheckFunction, batch_size: int
) -> tuple[list[float | None], list[Reject]]:
    """The score of each response, None where there is none; and a reject where the function failed."""
    wants_reference = _wants_reference(function)
    scores: list[float | None] = [None] * len(asked)
    rejects: list[Reject] = []
    waiting = deque(_parts(asked, batch_size or 1))
    while waiting:
        part = waiting.popleft()
        # A user's code may raise anything, and one odd response must not stop a run of millions.
        try:
            given = _called(function, part, wants_reference, batch_size)
            for one, score in zip(part, map(_finite, given), strict=True):
                scores[one.row] = score
        except Exception as error:
            if len(part) > 1:
                waiting.extend(_parts(part, 1))
            else:
                detail = f"{type(error).__name__}: {error}"
                scores[part[0].row] = None
                rejects.append(Reject(part[0].row, "check_failed", detail))
    return scores, sorted(rejects, key=lambda reject: reject.row)


def _parts(asked: Sequence[_Asked], size: int) -> list[Sequence[_Asked]]:
    return [asked[begin : begin + size] for begin in range(0, len(asked), size)]


def _called(
    function: CheckFunction, part: Sequence[_Asked], wants_reference: bool, batch_size: int
) -> list[Any]:
    """What the function gives for each of these responses; for the one there is without `batch_size`."""
    messages = [one.messages for one in part]
    responses = [one.response for one in part]
    references = [one.reference for one in part]
    if batch_size:
        more = {"reference": references} if wants_reference else {}
        given = function(messages, responses, **more)
        if not isinstance(given, Iterable):
            raise TypeError(f"with check.batch_size it must give a list of scores, and it gave {given!r}")
        scores = list(given)
        if len(scores) != len(part):
            raise ValueError(f"it gave {len(scores)} scores for {len(part)} responses")
        return scores
    more_of_one = {"reference": references[0]} if wants_reference else {}
    return [function(messages[0], responses[0], **more_of_one)]


def _finite(score: Any) -> float | None:
    """The score as a float, None where it is no finite number."""
    if isinstance(score, list | tuple):
        raise TypeError("it gave a list for one response: set check.batch_size for a function of lists")
    if score is None or not math.isfinite(score):
        return None
    return float(score)


STAGE = Stage(
    name="check",
    version=1,
    reads=("prompts", "responses"),
    writes=("scores", "rejects"),
    query=queries.used_responses("text", of_prompts=("reference",)),
    fn=make,
    facts=facts,
)
