"""`trainer eval`: measure a policy on the held-out pairs of a run."""

import json
from pathlib import Path

import click

from schemas.commands import RUN, output_options, settings_option
from schemas.loading import no_garbage
from schemas.plans import read_plan
from schemas.screen import give, say
from schemas.store import open_store


@click.command("eval")
@RUN
@click.argument("policy", required=False, type=click.Path(path_type=Path))
@settings_option("section.key=value, over the policy's own recipe, such as train.loss.")
@click.option(
    "--format",
    "form",
    default="table",
    show_default=True,
    type=click.Choice(["table", "json"]),
    help="json: the same as --json, in one line.",
)
@output_options(lines_are_result=True)
def command(run: Path, policy: Path | None, settings: tuple[str, ...], form: str) -> None:
    """Measure a POLICY on the held-out pairs of a RUN.

    POLICY: a checkpoint, a train folder (its last one), or any model folder.

    Without POLICY it is the reference itself. The loss is the one it was trained by.

    \b
    Example:
      trainer eval runs/hh runs/hh/train-49a0c16d8e43
      trainer eval runs/hh
    """
    store = open_store(run)
    read_plan(store)  # says clearly where this is no run

    with no_garbage():
        from schemas.identity import resolve
        from trainer import best
        from trainer.dist import is_first
        from trainer.evaluate import evaluate, folder_of, recipe_of

    recipe = recipe_of(store, policy, settings)
    folder = folder_of(policy) if policy else resolve(recipe.section("model"))
    values = evaluate(store, recipe, folder)
    if not is_first():
        return
    result: dict[str, object] = {"policy": str(folder), **values}
    give(lambda: result)
    if form == "json":
        say(json.dumps(result, allow_nan=False))
        return
    say(str(folder))
    named = best.sentence(open_store(policy)) if policy else None
    if named:
        say(f"{named} (give this path to measure it)")
    for name, value in values.items():
        say(f"{name:<26} {value:>12.6g}")
