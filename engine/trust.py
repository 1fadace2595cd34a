"""What a recipe makes `engine precompute` run or send, and whether the user has to say so first.

A recipe that may be somebody else's (schemas/ownership.py) runs none of its Python and asks none of its
servers until `--trust` is given: both see the user's files, rows and keys. Nor does a recipe of the user's
run Python that lies in a run folder. What the user typed on the command line is the user's own.
"""

import os
from pathlib import Path
from typing import Any

from engine.endpoint.spec import Endpoint
from engine.executors.phases import Gaps
from engine.plan import Run
from engine.python_paths import unseen_loads
from engine.python_sources import Source, parsed
from engine.stage import Stage
from schemas.errors import UserError
from schemas.manifest import RECIPE
from schemas.ownership import why_of_a_run
from schemas.printable import printable


def said(run: Run, gaps: Gaps) -> list[str]:
    """Lines about the user's code that is going to be run."""
    lines: list[str] = []
    for stage in _with_work(run, gaps):
        if stage.runs is not None:
            lines.append(f"{stage.name}: runs {printable(stage.runs(run.config(stage)))}")
        if stage.code is not None:
            lines += _unseen(stage.name, stage.code(run.config(stage)))
    return lines


def _unseen(stage: str, file: Path) -> list[str]:
    """A line about what a file loads besides its imports, if it does."""
    if file.suffix != ".py":
        return []
    loads = unseen_loads(parsed(Source(file.stem, file), f"[{stage}]"))
    if not loads:
        return []
    return [
        f"{stage}: {printable(str(file))} uses {', '.join(loads)}: what is loaded so is no part of the "
        "scores' identity, and a change of it makes no new scores"
    ]


def prepare(run: Run, gaps: Gaps) -> None:
    """Load the user's code, so that what does not import is said before the night."""
    for stage in _with_work(run, gaps):
        if stage.prepare is not None:
            stage.prepare(run.config(stage), run.planned[stage.name].facts)


def check(run: Run, gaps: Gaps, trust: bool) -> None:
    """Raise UserError where work is to be done by a foreign recipe's code or servers, or by code of a run
    folder, unless with `trust`."""
    if trust:
        return
    foreign = run.recipe.foreign or _is_of_its_own_run(run)
    if not foreign:
        for stage in _with_work(run, gaps):
            _check_code(run, stage)
        return
    asks: list[str] = []
    for stage in _with_work(run, gaps):
        asks += _asks(run, stage)
    if asks:
        raise UserError(
            f"this recipe may be somebody else's ({printable(foreign)}), and it would "
            f"{'; '.join(asks)}. Read it, and if that is what you want give the same command with --trust"
        )


def _is_of_its_own_run(run: Run) -> str:
    """That the recipe is the one that lies in the folder to write into, which may have been emptied."""
    file = run.recipe.file
    if file is None or file.name != RECIPE or file.resolve().parent != Path(str(run.store)).resolve():
        return ""
    return f"it lies in the run folder {run.store}"


def _check_code(run: Run, stage: Stage) -> None:
    """Raise UserError where a stage's Python lies in a run folder, unless the user typed its name."""
    if stage.code is None or f"{stage.name}.function" in run.recipe.typed:
        return
    why = why_of_a_run(stage.code(run.config(stage)))
    if why:
        raise UserError(
            f"the Python that [{stage.name}] names may be somebody else's ({printable(why)}), and the recipe "
            f"would {_would_run(run, stage)}. Read it, and if that is what you want give the same command "
            "with --trust"
        )


def _would_run(run: Run, stage: Stage) -> str:
    assert stage.runs is not None
    return f"run {printable(stage.runs(run.config(stage)))} ([{stage.name}])"


def _with_work(run: Run, gaps: Gaps) -> list[Stage]:
    """The stages of which something is to be made."""
    names = {stage.name for stages in gaps.values() for stage in stages}
    return [stage for stage in run.stages if stage.name in names]


def _asks(run: Run, stage: Stage) -> list[str]:
    """What a stage would run or send by what the recipe's file says."""
    typed = run.recipe.typed
    asks: list[str] = []
    if stage.runs is not None and f"{stage.name}.function" not in typed:
        asks.append(_would_run(run, stage))
    endpoint = run.endpoint(stage)
    if endpoint is not None and f"{stage.name}.base_url" not in typed:
        asks.append(_would_send(endpoint))
    model = run.models.get(stage.name)
    if model is not None and model.spec.backend == "vllm":
        table = f"{model.spec.section}.vllm"
        named = [name for name in code_arguments(model.spec.config.vllm) if f"{table}.{name}" not in typed]
        if named:
            asks.append(
                f"give vLLM what may name code or files for it to load ([{table}] {', '.join(named)})"
            )
    return asks


def _would_send(endpoint: Endpoint) -> str:
    """The rows go to the server in any case."""
    what = "rows of the run"
    if os.environ.get(endpoint.api_key_env, "").strip():
        what += f" and the key in {endpoint.api_key_env}"
    return f"send {what} to {printable(endpoint.base_url)} ([{endpoint.section}])"


def code_arguments(arguments: dict[str, Any]) -> list[str]:
    """The arguments of vLLM that may name code, files or addresses: all but numbers and plain words."""
    return [name for name, value in arguments.items() if not _is_plain(value)]


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return not any(sign in value for sign in "./:\\")
    return isinstance(value, bool | int | float)
