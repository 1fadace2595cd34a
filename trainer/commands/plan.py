"""`trainer plan`: what training takes of each rank's memory, before anything is loaded."""

import re

import click

from schemas.commands import RECIPE_ARGUMENT, output_options, run_option, settings_option
from schemas.errors import UserError
from schemas.screen import give, say
from schemas.store import open_store

_UNITS = {"B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_UNITS |= {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@click.command("plan")
@RECIPE_ARGUMENT
@run_option("Run folder that `engine precompute` made.")
@click.option("--world-size", type=click.IntRange(1), default=1, show_default=True, help="Ranks that train.")
@click.option(
    "--device-memory",
    metavar="SIZE",
    help="What each rank's device has, such as 80GiB. Without it: what is free on this machine's.",
)
@settings_option(sections=("train", "model"))
@output_options(lines_are_result=True)
def command(
    recipe: str, run: str, world_size: int, device_memory: str | None, settings: tuple[str, ...]
) -> None:
    """Say what training takes of each rank's memory, whether it fits, and what to change where it does not.

    Nothing is loaded or written, and no GPU is needed.

    \b
    Example:
      trainer plan dpo -o runs/hh --world-size 8 --device-memory 80GiB
    """
    from trainer.commands.run import training_recipe

    store = open_store(run)
    asked = training_recipe(recipe, store, settings)
    size = None if device_memory is None else bytes_of(device_memory)

    from trainer.planning import plan_training

    planned = plan_training(store, asked, world_size, size)
    give(planned.document)
    for line in planned.lines():
        say(line)


def bytes_of(text: str) -> int:
    """The bytes that a size such as 80GiB, 640 MB or 1.5e9 B means. Raises UserError for another text.

    A number without a unit is refused too: 80 is meant as GiB and would be read as bytes."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    if found and found[2].upper() in _UNITS:
        try:
            size = int(float(found[1]) * _UNITS[found[2].upper()])
        except (ValueError, OverflowError):
            size = 0
        if size > 0:
            return size
    raise UserError(f"--device-memory {text}: expected a size with its unit, such as 80GiB, 24GB or 512MiB")
