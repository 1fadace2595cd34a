"""What a recipe makes `engine precompute` run or send, and whether the user has to say so first.

A recipe that may be somebody else's (schemas/ownership.py) runs none of its Python and asks none of its
servers until `--trust` is given: both see the user's files, rows and keys. What the user typed on the command
line is the user's own.
"""

import os
from typing import Any

from engine.endpoint.spec import Endpoint
from engine.executors.phases import Gaps
from engine.plan import Run
from engine.stage import Stage
from schemas.errors import UserError
from schemas.printable import printable


def said(run: Run, gaps: Gaps) -> list[str]:
    """Lines about the user's code that is going to be run."""
    lines: list[str] = []
    for stage in _with_work(run, gaps):
        if stage.runs is not None:
            lines.append(f"{stage.name}: runs {printable(stage.runs(run.config(stage)))}")
    return lines


def prepare(run: Run, gaps: Gaps) -> None:
    """Load the user's code, so that what does not import is said before the night."""
    for stage in _with_work(run, gaps):
        if stage.prepare is not None:
            stage.prepare(run.config(stage), run.planned[stage.name].facts)


def check(run: Run, gaps: Gaps, trust: bool) -> None:
    """Raise UserError where work is to be done by a foreign recipe's code or servers, unless with `trust`."""
    if trust or not run.recipe.foreign:
        return
    asks: list[str] = []
    for stage in _with_work(run, gaps):
        asks += _asks(run, stage)
    if asks:
        raise UserError(
            f"this recipe may be somebody else's ({printable(run.recipe.foreign)}), and it would "
            f"{'; '.join(asks)}. Read it, and if that is what you want give the same command with --trust"
        )


def _with_work(run: Run, gaps: Gaps) -> list[Stage]:
    """The stages of which something is to be made."""
    names = {stage.name for stages in gaps.values() for stage in stages}
    return [stage for stage in run.stages if stage.name in names]


def _asks(run: Run, stage: Stage) -> list[str]:
    """What a stage would run or send by what the recipe's file says."""
    typed = run.recipe.typed
    asks: list[str] = []
    if stage.runs is not None and f"{stage.name}.function" not in typed:
        asks.append(f"run {printable(stage.runs(run.config(stage)))} ([{stage.name}])")
    endpoint = run.endpoint(stage)
    if endpoint is not None and f"{stage.name}.base_url" not in typed:
        asks.append(_would_send(endpoint))
    model = run.models.get(stage.name)
    if model is not None and model.spec.backend == "vllm":
        named = [name for name in code_arguments(model.spec.config.vllm) if f"model.vllm.{name}" not in typed]
        if named:
            asks.append(
                f"give vLLM what may name code or files for it to load ([model.vllm] {', '.join(named)})"
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
