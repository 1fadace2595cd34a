"""`engine export`: the pairs of a run in the form that another tool reads."""

from pathlib import Path

import click

from schemas.commands import RUN
from schemas.errors import UserError
from schemas.screen import say
from schemas.store import LocalStore, open_store

_FORMS = ("trl", "hf", "openrlhf", "llama-factory", "jsonl")


@click.command("export")
@RUN
@click.option("--to", "form", type=click.Choice(_FORMS), required=True, help="The tool that is to read it.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to write; it must not be there yet, or be empty.",
)
def command(run: str, form: str, output: Path) -> None:
    """Write the pairs of a RUN for another tool, with a card that says what they are and how to load them.

    \b
    trl            a saved DatasetDict with token ids and ref_chosen_logps, for TRL's DPOTrainer
    hf             Parquet files as the Hub shows them
    openrlhf       JSON lines of whole dialogues
    llama-factory  JSON lines and dataset_info.json
    jsonl          JSON lines with all that is known of a pair

    \b
    Example:
      engine export runs/hh --to trl -o exported
    """
    from engine.export.card import card_of
    from engine.export.forms import FORMS
    from engine.export.rows import exported

    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"{output} has files in it: name a folder that is not there yet, or is empty")
    store = open_store(run)
    counts: dict[str, int] = {}

    def fill(folder: Path) -> None:
        counts.update(FORMS[form](exported(store), folder))
        (folder / "README.md").write_text(card_of(store, form, counts), encoding="utf-8")

    place = output.absolute()
    LocalStore(place.parent).put_folder(place.name, fill)
    sizes = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    say(f"{output}: {sizes} pairs as {form}; {output / 'README.md'} says how to load them")
