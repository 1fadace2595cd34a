"""dtype = "auto" of a recipe, resolved before anything is named by it: no fact of a run ever says auto.

- A run folder keeps the dtype that it was made in: one made on a GPU and looked at on a machine without one
  stays the same run.
- Where there is no run yet the machine says it: bfloat16 on GPUs that have it, float32 otherwise.
- A dtype that the recipe names is taken as it is.
"""

import dataclasses
import hashlib
import tomllib
from collections.abc import Iterator

from schemas.devices import bfloat16_is_there
from schemas.errors import UserError
from schemas.fields import Section
from schemas.manifest import RECIPE
from schemas.plans import planned_recipe, read_plan
from schemas.recipe import Recipe
from schemas.sections import Model, Reward
from schemas.store import Store

AUTO = "auto"
_KNOWN = ("float32", "bfloat16", "float16")
_SECTIONS = ("model", "reward")  # those whose auto is resolved here
_MAY_HAVE_OWN = ("judge", "rewrite")  # their auto is the dtype of [model]


def resolved(recipe: Recipe, run: Store, there: str = "") -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with every dtype resolved, and a line for each that was auto: which was taken, and why.

    `there`: the dtype of another machine that is planned for; empty for this one."""
    changed: dict[str, Section] = {}
    lines: list[str] = []
    for name in _SECTIONS:
        section = recipe.sections.get(name)
        if not isinstance(section, Model | Reward) or section.dtype != AUTO:
            continue
        dtype = _of_run(run, name)
        why = f"as {run} was made"
        if dtype is None:
            dtype = there or dtype_here(_device(recipe))
            why = "by the device that is planned for" if there else "by the device here"
        changed[name] = dataclasses.replace(section, dtype=dtype)
        lines.append(f"{name}.dtype = auto: {dtype}, {why}")
    return recipe.with_sections(**changed), tuple(lines)


def of_training(wanted: str, cached: str) -> str:
    """The dtype that training runs in. `wanted`: train.dtype; `cached`: of the log-probs, taken for auto.

    Nothing is trained in float16: over a cache in it, auto is float32."""
    if wanted != AUTO:
        return wanted
    return "float32" if cached == "float16" else cached


def dtype_here(device: str) -> str:
    """The dtype of a model on this machine; `device`: as in model.device."""
    return "bfloat16" if bfloat16_is_there(device) else "float32"


def _device(recipe: Recipe) -> str:
    model = recipe.sections.get("model")
    return model.device if isinstance(model, Model) else AUTO


def _of_run(run: Store, section: str) -> str | None:
    """The dtype that a run was planned with; None where there is no run, or none with such a section."""
    dtype = _of_recipe(run, section)
    if dtype is None:
        dtype = _of_facts(run, section)
    return dtype if dtype in _KNOWN else None


def _of_recipe(run: Store, section: str) -> object:
    """By the recipe beside the plan, unless it was changed since."""
    if not run.exists(RECIPE):
        return None
    data = run.read(RECIPE)
    try:
        planned = planned_recipe(run)
    except UserError:  # the plan is damaged: it is about to be written again
        planned = None
    if planned not in (None, hashlib.sha256(data).hexdigest()):
        return None
    try:
        # Not read as a recipe: one of an older version may have what is refused now.
        body = tomllib.loads(data.decode()).get(section)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return None
    return body.get("dtype") if isinstance(body, dict) else None


def _of_facts(run: Store, section: str) -> object:
    """By what the planned folders are made from."""
    try:
        stages, _ = read_plan(run)
    except UserError:
        return None
    # Judge and rewriter may have a dtype of their own, so those that always run in [model]'s come first.
    for planned in sorted(stages, key=lambda planned: planned.stage in _MAY_HAVE_OWN):
        if (planned.stage == "reward") == (section == "reward"):
            for dtype in _dtypes(planned.facts):
                return dtype
    return None


def _dtypes(facts: object) -> Iterator[object]:
    """Every dtype in a stage's facts: those of the model that its rows are made with."""
    if not isinstance(facts, dict):
        return
    for name, value in facts.items():
        if name == "dtype":
            yield value
        yield from _dtypes(value)
