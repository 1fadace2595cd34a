"""Scores by a function of the user's: an exact checker where the truth is known, or any reward of one's own. Its scorer is `check`.

What the function cannot judge (it raises, or gives None or no finite number) is a null score, a raise also a reject: no response is lost.
"""

import functools
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from engine.stage import Made, Stage
from engine.stages.generate import refused
from schemas.commit import sha256_file
from schemas.errors import UserError, did_you_mean
from schemas.recipe import Recipe
from schemas.tables import table

_QUERY = """
select prompt_id, prompts.messages as messages, prompts.file as file, prompts.line as line, response_id, responses.text as text
from responses join prompts using (prompt_id)
where fallback is null
order by prompt_id, response_id
"""


def facts(recipe: Recipe) -> dict:
    name = recipe.section("check").function
    function = load(name)
    # The module's file, not the function's: what scores may be any object that can be called.
    place = name.rpartition(":")[0]
    file = place if place.endswith(".py") else getattr(sys.modules.get(place), "__file__", None)
    if not file or not callable(function):
        raise UserError(
            f"[check] function = '{name}': {place} has no source file, so that its scores could not be told from those of another version; wrap it in a file of your own"
        )
    return {"function": name.rsplit("/", 1)[-1], "source": sha256_file(Path(file))}


@functools.cache
def load(name: str) -> Callable[[list[dict[str, str]], str], float | None]:
    """The function that package.module:name or path/file.py:name means."""
    place, colon, function = name.rpartition(":")
    if not colon or not place or not function:
        raise UserError(f"[check] function = '{name}': expected package.module:name or path/file.py:name")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(spec.name, module)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except Exception as error:
        raise UserError(
            f"[check] function = '{name}': {place} does not import: {type(error).__name__}: {error}"
        ) from None
    found = getattr(module, function, None)
    if not callable(found):
        raise UserError(
            f"[check] function = '{name}': {place} has no function {function}; {did_you_mean(function, [key for key, value in vars(module).items() if inspect.isfunction(value)])}"
        )
    return found


def make(batch: pa.Table, recipe: Recipe, model: object) -> Made:
    function = load(recipe.section("check").function)
    texts, scores, reasons = batch["text"].to_pylist(), [], {}
    for row, (messages, text) in enumerate(zip(batch["messages"].to_pylist(), texts, strict=True)):
        try:
            score = function(messages, text)
            scores.append(float(score) if score is not None and math.isfinite(score) else None)
        except (
            Exception
        ) as error:  # a user's code may raise anything, and one odd response must not stop a run of millions
            scores.append(None)
            reasons[row] = ("check_failed", f"{type(error).__name__}: {error}")
    columns = {
        "prompt_id": batch["prompt_id"],
        "response_id": batch["response_id"],
        "scorer": ["check"] * len(batch),
        "score": scores,
    }
    counts = {"checked": len(batch), "unscored": scores.count(None), "rejects": len(reasons)}
    return Made(
        {"scores": table("scores", columns), "rejects": refused("check", reasons, batch, texts)}, counts
    )


STAGE = Stage(
    name="check",
    version=1,
    reads=("prompts", "responses"),
    writes=("scores", "rejects"),
    query=_QUERY,
    fn=make,
    facts=facts,
)
