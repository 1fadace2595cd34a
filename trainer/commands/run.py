"""`trainer run`: train as a recipe says, on the pairs of a run."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from schemas.commands import RECIPE_ARGUMENT, output_options, run_option, settings_option
from schemas.errors import UserError
from schemas.loading import no_garbage
from schemas.manifest import METRICS
from schemas.plans import read_plan
from schemas.recipe import Recipe, load, load_of_run
from schemas.screen import give, say
from schemas.store import Store, open_store


@click.command("run")
@RECIPE_ARGUMENT
@run_option("Run folder that `engine precompute` made.")
@settings_option(sections=("train", "model"))
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on from the last checkpoint of the same settings, or start them again.",
)
@output_options()
def command(recipe: str, run: str, settings: tuple[str, ...], resume: bool) -> None:
    """Train as [train] of a RECIPE says, on the pairs of a run folder.

    The model, and all else that is not [train], is what the run was made with. Other settings make another
    folder train-<fingerprint> in it; the same ones go on where they stopped. Under torchrun, one process a
    GPU.

    \b
    Example:
      trainer run dpo -o runs/hh --set train.max_steps=50
      torchrun --nproc-per-node 8 -m trainer.cli run dpo -o runs/hh
    """
    store = open_store(run)
    job = training_recipe(recipe, store, settings)

    with no_garbage():
        from trainer.dist import is_first
        from trainer.train import train

    policy = train(store, job, resume)
    if is_first():
        metrics = last_metrics(policy.parent)
        give(lambda: _document(policy, metrics))
        for line in _next(run, policy.parent.name, is_evaluated=any(_is_of_eval(name) for name in metrics)):
            say(line)


def last_metrics(folder: Path) -> dict[str, float]:
    """The last value of every metric that a training has measured, with the last `step`."""
    from schemas.trainings import record

    last: dict[str, float] = {}
    for line in record.read(open_store(folder)):
        last |= line
    return last


def _is_of_eval(name: str) -> bool:
    return name.startswith("eval_")


def _document(policy: Path, last: Mapping[str, float]) -> dict[str, object]:
    """For JSON: what was trained where, and the last metrics of batches and of held-out pairs."""
    metrics = {name: value for name, value in last.items() if name != "step" and not _is_of_eval(name)}
    of_eval = {name: value for name, value in last.items() if _is_of_eval(name)}
    return {
        "folder": policy.parent,
        "steps": last.get("step"),
        "policy": policy,
        "curves": policy.parent / METRICS,
        "metrics": metrics,
        "eval_metrics": of_eval,
    }


def _next(run: str, folder: str, is_evaluated: bool) -> Iterator[str]:
    """The commands that come next, as a shell takes them."""
    yield "next:"
    if is_evaluated:  # there are held-out pairs
        yield f"  {shlex.join(['trainer', 'eval', run, os.path.join(run, folder)])}"
    yield f"  {shlex.join(['trainer', 'compare', run])}"


def training_recipe(recipe: str, run: Store, settings: Sequence[str]) -> Recipe:
    """The recipe that the run was made with, with [train] and the seed of the one given.

    Raises UserError for a setting that is not the trainer's."""
    of_train: list[str] = []
    of_model: list[str] = []
    for setting in settings:
        section = setting.split(".")[0].split("=")[0]
        if section in ("train", "seed"):
            of_train.append(setting)
        elif setting.startswith("model."):
            of_model.append(setting)
        else:
            raise UserError(
                f"--set {setting} is not the trainer's: the run was made with its own; "
                "give it to `engine precompute`"
            )
    given = load(recipe, of_train)
    read_plan(run)  # says clearly where this is no run
    made = load_of_run(run, of_model)
    sections = {**made.sections, "train": given.section("train")}
    if "model" in given.sections and given.section("model").name and not of_model:
        sections["model"] = given.section("model")
    return Recipe(sections, given.seed)
