"""Scores by a function of the user's: an exact checker where the truth is known, or a reward of one's own.

- Its scorer is `check`.
- What the function cannot judge is a null score, so no response is lost: it raises, or gives None or a number
  that is not finite. What it raises is a reject as well.
- With `batch_size` it is given lists. Where it raises for a batch, its responses are given again, one at a
  time. A list of the wrong length stops the run: nobody can say whose scores they are.
- A function that has a parameter `reference` is given the right answer that the data brings, or None.
"""

import inspect
import math
import sys
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engine import python_names, queries
from engine.python_loading import refuse_strangers
from engine.python_sources import digests, modules_of, packages_of
from engine.rejects import Reject, rejects_table
from engine.stage import Context, Made, Planning, Stage
from engine.user_function import CheckFunction, code_facts, seen, source_of, title
from engine.user_function import load as load
from schemas.digest import sha256_file
from schemas.errors import UserError
from schemas.manifest import Facts
from schemas.panics import panics_as_errors
from schemas.sections import Check
from schemas.tables import table

Messages = list[dict[str, str]]
_SHOWN = 80  # letters of what a function gave


def facts(config: Check, planning: Planning) -> Facts:
    """The function's name and the digests of its source file and of the user's modules that it imports.

    Nothing is run. Raises UserError where it has no source, or certainly has no such function."""
    where = title(config.function)
    source = source_of(config.function)
    own: Facts = {
        "function": config.function.rsplit("/", 1)[-1],
        "source": sha256_file(source.path),
    }
    # Only where they are set, so that folders made without them keep their names.
    if config.batch_size:
        own["batch_size"] = config.batch_size
    if source.path.suffix != ".py":
        return own
    function = seen(config.function, source, where)
    # What cannot be seen need not be said: the source settles it.
    if function is not None and python_names.has_parameter(function, "reference"):
        own["reference"] = True
    modules, _ = modules_of(source, where)
    if modules:
        own["imports"] = digests(modules)
    return own


def _wants_reference(function: CheckFunction) -> bool:
    """True if the function has a parameter of that name."""
    try:
        return "reference" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # what is written in C may have none to be looked at
        return False


def runs(config: Check) -> str:
    """The user's code that is run when scores are made."""
    place, _, name = config.function.rpartition(":")
    return f"Python of {source_of(config.function).path if place.endswith('.py') else place}:{name}"


def prepare(config: Check, facts: Facts) -> None:
    """Load the function before any work. Raises UserError where it does not import."""
    load(config.function, code_facts(facts))


def libraries(config: Check) -> set[str]:
    """The installed packages that the file imports, and those that its own modules do."""
    source = source_of(config.function)
    if source.path.suffix != ".py":
        return set()
    _, others = modules_of(source, title(config.function))
    return packages_of(others)


def _planned_function(config: Check, context: Context) -> CheckFunction:
    """What the stage's folder is named by; without a folder what lies there."""
    planned = code_facts(context.facts)
    return load(config.function, planned) if planned else load(config.function)


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
    function = _planned_function(config, context)
    before = set(sys.modules)
    scores, rejects, asked_again = _scores(asked, config, function)
    refuse_strangers(before, context.facts.get("imports", {}), title(config.function))
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


def _scores(
    asked: Sequence[_Asked], config: Check, function: CheckFunction
) -> tuple[list[float | None], list[Reject], int]:
    """The score of each response, None where there is none; a reject where the function failed; and how many
    responses it was asked about again, one by one, since it failed on their batch.

    Raises UserError for a function that with `batch_size` gives no list of one score a response."""
    wants_reference = _wants_reference(function)
    scores: list[float | None] = [None] * len(asked)
    rejects: list[Reject] = []
    asked_again = 0
    waiting = deque(_parts(asked, config.batch_size or 1))
    while waiting:
        part = waiting.popleft()
        # A user's code may raise anything, and one odd response must not stop a run of millions.
        try:
            with panics_as_errors():
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
    runs=runs,
    prepare=prepare,
    libraries=libraries,
)
