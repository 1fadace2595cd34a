"""`trainer compare`: training runs side by side."""

import json
from pathlib import Path

import click

from schemas import completion
from schemas.commands import output_options
from schemas.errors import UserError
from schemas.screen import give, say


@click.command("compare")
@click.argument(
    "runs",
    metavar="RUN...",
    nargs=-1,
    shell_complete=completion.runs,
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
)
@click.option(
    "-o",
    "--output",
    default="compare.png",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The picture, a PNG.",
)
@click.option(
    "--format",
    "form",
    default="table",
    show_default=True,
    type=click.Choice(["table", "json"]),
    help="json: a line for each run. --json gives one document.",
)
@output_options(lines_are_result=True)
def command(runs: tuple[Path, ...], output: Path, form: str) -> None:
    """Show training runs side by side: a table of where they ended, and one picture of their curves.

    RUN is a run folder, for all that was trained in it, or one of its train folders. Runs that differ in
    their seed alone become one curve with a band. A run that is still at work is shown as far as it is.

    \b
    Example:
      trainer compare runs/hh
      trainer compare runs/hh/train-49a0c16d8e43 runs/hh/train-1f0f7c2b9d11 -o two.png
    """
    from schemas.store import write_output
    from schemas.summaries import as_summary
    from trainer import compare
    from trainer.disk import at
    from trainer.picture import picture

    if output.suffix.lower() != ".png":
        raise UserError(f"-o {output}: the picture is a PNG; give a name that ends in .png")
    trained = compare.read(runs)
    rows = compare.table(trained)
    image = picture(trained)
    with at(output, "put that right, or name another file with -o"):
        write_output(output, lambda path: path.write_bytes(image))
    give(lambda: {"runs": rows.to_dicts(), "curves": output})
    if form == "json":
        for row in rows.to_dicts():
            say(json.dumps(row, allow_nan=False))
        return
    say(as_summary(compare.shown(rows).to_dicts()), is_styled=True)
    say(f"curves: {output}")
