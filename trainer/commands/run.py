"""`trainer run`: train as a recipe says, on the pairs of a run."""

from collections.abc import Sequence

import click

from schemas.commands import RECIPE_ARGUMENT, run_option, settings_option
from schemas.errors import UserError
from schemas.loading import no_garbage
from schemas.plans import read_plan
from schemas.recipe import Recipe, load, load_of_run
from schemas.store import Store, open_store


@click.command("run")
@RECIPE_ARGUMENT
@run_option("Run folder that `engine precompute` made.")
@settings_option()
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on from the last checkpoint of the same settings, or start them again.",
)
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
        from trainer.train import train

    train(store, job, resume)


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
