"""Scores by a function of the user's: an exact checker where the truth is known, or a reward of one's own.

- Its scorer is `check`.
- What the function cannot judge is a null score, so no response is lost: it raises, or gives None or a number
  that is not finite. What it raises is a reject as well.
- With `batch_size` it is given lists. Where it raises for a batch, its responses are given again, one at a
  time. A list of the wrong length stops the run: nobody can say whose scores they are.
- A function that has a parameter `reference` is given the right answer that the data brings, or None.
"""

import functools
import importlib
import importlib.util
import inspect
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
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
_SHOWN = 80  # letters of what a function gave


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
    if inspect.iscoroutinefunction(function):
        raise UserError(f"{config.title()} function = '{name}' is an async function: write it without async")
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
    scores, rejects, asked_again = _scores(asked, config)
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
        "asked_again_one_by_one": asked_again,
        "rejects": len(rejects),
    }
    return Made(tables, counts)


def _scores(asked: Sequence[_Asked], config: Check) -> tuple[list[float | None], list[Reject], int]:
    """The score of each response, None where there is none; a reject where the function failed; and how many
    responses it was asked about again, one by one, since it failed on their batch.

    Raises UserError for a function that with `batch_size` gives no list of one score a response."""
    function = load(config.function)
    wants_reference = _wants_reference(function)
    scores: list[float | None] = [None] * len(asked)
    rejects: list[Reject] = []
    asked_again = 0
    waiting = deque(_parts(asked, config.batch_size or 1))
    while waiting:
        part = waiting.popleft()
        # A user's code may raise anything, and one odd response must not stop a run of millions.
        try:
            given = _called(function, part, wants_reference, config.batch_size)
        except Exception as error:
            if len(part) > 1:
                waiting.extend(_parts(part, 1))
                asked_again += len(part)
            else:
                rejects.append(_failed(part[0], error))
            continue
        given_scores = _list_of(given, len(part), config) if config.batch_size else [given]
        for one, score in zip(part, given_scores, strict=True):
            try:
                scores[one.row] = _finite(score)
            except Exception as error:
                rejects.append(_failed(one, error))
    return scores, sorted(rejects, key=lambda reject: reject.row), asked_again


def _failed(one: _Asked, error: Exception) -> Reject:
    return Reject(one.row, "check_failed", f"{type(error).__name__}: {error}")


def _parts(asked: Sequence[_Asked], size: int) -> list[Sequence[_Asked]]:
    return [asked[begin : begin + size] for begin in range(0, len(asked), size)]


def _called(function: CheckFunction, part: Sequence[_Asked], wants_reference: bool, batch_size: int) -> Any:
    """What the function gives for these responses; without `batch_size` there is one."""
    if batch_size:
        more = {"reference": [one.reference for one in part]} if wants_reference else {}
        return function([one.messages for one in part], [one.response for one in part], **more)
    (one,) = part
    more_of_one = {"reference": one.reference} if wants_reference else {}
    return function(one.messages, one.response, **more_of_one)


def _list_of(given: Any, count: int, config: Check) -> list[Any]:
    """The scores that a function of lists gave. Raises UserError where nobody can say whose they are."""
    wanted = f"[check] function = '{config.function}' with batch_size must give a list of {count} scores"
    if not isinstance(given, Iterable) or isinstance(given, str | Mapping):
        raise UserError(f"{wanted}, one a response, and it gave {str(given)[:_SHOWN]}")
    scores = list(given)
    if len(scores) != count:
        raise UserError(f"{wanted}, one a response, and it gave {len(scores)}")
    return scores


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
