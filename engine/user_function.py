"""The function that a recipe names: found and named by its text, run when scores are made and not before.

Whoever looks at a run folder that somebody else made (`engine status`, `engine verify`, a plan) must not run
what its recipe names; so all that a folder's name needs is read from the source.
"""

import ast
import functools
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine import python_names
from engine.python_loading import refuse_strangers, run_module
from engine.python_sources import Source, digests, levels, modules_of, parsed, source_of_file
from schemas.errors import UserError, did_you_mean
from schemas.manifest import Facts
from schemas.panics import panics_as_errors

# (messages, response) -> the score, or None where it has no opinion; with batch_size lists of each.
CheckFunction = Callable[..., Any]
_CODE = ("source", "imports")  # the facts that say what is run


def title(name: str) -> str:
    return f"[check] function = '{name}'"


def source_of(name: str) -> Source:
    """The file that package.module:name or path/file.py:name lies in. Raises UserError where it has none."""
    place, colon, function_name = name.rpartition(":")
    if not colon or not place or not function_name:
        raise UserError(f"{title(name)}: expected package.module:name or path/file.py:name")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise UserError(f"{title(name)}: there is no file {place}: correct its path")
        return source_of_file(place)
    found = levels(place)
    if found and found[-1].name == place and found[-1].path.is_file():
        return found[-1]
    if place in sys.builtin_module_names or place in sys.stdlib_module_names:
        raise UserError(
            f"{title(name)}: {place} has no source file, so that its scores could not "
            "be told from those of another version; wrap it in a file of your own"
        )
    raise UserError(
        f"{title(name)}: {place} does not import: ModuleNotFoundError: there is no such module on Python's "
        "path: put its folder on PYTHONPATH, or write path/file.py:name"
    )


def seen(name: str, source: Source, where: str) -> python_names.Function | None:
    """The function by its text. Raises UserError where it is not there, or is async."""
    place, _, function_name = name.rpartition(":")
    tree = parsed(source, where)
    if python_names.is_certainly_absent(tree, function_name):
        known = python_names.functions(tree)
        raise UserError(
            f"{where}: {place} has no function {function_name}; {did_you_mean(function_name, known)}"
        )
    function = python_names.function_of(source, tree, function_name, where)
    if isinstance(function, ast.AsyncFunctionDef):
        raise UserError(f"{where} is an async function: write it without async")
    return function


def code_facts(facts: Mapping[str, Any]) -> str:
    """Those of a folder's facts that say what is run, as text; empty where there are none."""
    kept = {key: facts[key] for key in _CODE if key in facts}
    return json.dumps(kept, sort_keys=True) if kept else ""


@functools.cache
def load(name: str, planned: str = "") -> CheckFunction:
    """The function that package.module:name or path/file.py:name means. It runs the user's code.

    `planned`: the `code_facts` of what is to be run; empty for the files as they are. Raises UserError where
    its module does not import or does not have it, or is not what was planned with."""
    source = source_of(name)
    place, _, function_name = name.rpartition(":")
    modules = modules_of(source, title(name))[0] if source.path.suffix == ".py" else []
    sha256 = digests([*modules, source])
    if planned:
        _check_planned(name, sha256, source, planned)
    before = set(sys.modules)
    try:
        with panics_as_errors():
            module = run_module(source, place.endswith(".py"), modules, sha256)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{title(name)}: {place} does not import: {type(error).__name__}: {error}") from None
    refuse_strangers(before, sha256, title(name))
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise UserError(
            f"{title(name)}: {place} has no function {function_name}; {did_you_mean(function_name, known)}"
        )
    if inspect.iscoroutinefunction(function):
        raise UserError(f"{title(name)} is an async function: write it without async")
    return function


def _check_planned(name: str, sha256: Mapping[str, str], source: Source, planned: str) -> None:
    """Raise UserError where the files are not those that the folder is named by."""
    of_modules = {module: digest for module, digest in sha256.items() if module != source.name}
    now: Facts = {"source": sha256[source.name]}
    if of_modules:
        now["imports"] = of_modules
    if code_facts(now) != planned:
        raise UserError(
            f"{title(name)}: {source.path}, or a module that it imports, changed while the run was going; "
            "run the same command again"
        )
