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
    help="The picture: a .png, or a .svg.",
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
    their seed alone become one curve with a band. A faint line is what was logged, the line its mean over a
    tenth of the run, points are the held-out pairs. A run that is still at work is shown as far as it is.

    \b
    Example:
      trainer compare runs/hh
      trainer compare runs/hh/train-49a0c16d8e43 runs/hh/train-1f0f7c2b9d11 -o two.png
    """
    from schemas.store import write_output
    from schemas.summaries import as_summary
    from schemas.trainings import table
    from schemas.trainings.picture import picture
    from schemas.trainings.read import read
    from trainer.disk import at

    picture_form = output.suffix.lower().removeprefix(".")
    if picture_form not in ("png", "svg"):
        raise UserError(f"-o {output}: the picture is a PNG or an SVG; give a name that ends in .png or .svg")
    trained = read(runs)
    rows = table.table(trained)
    image = picture(trained, picture_form)
    with at(output, "put that right, or name another file with -o"):
        write_output(output, lambda path: path.write_bytes(image))
    give(lambda: {"runs": rows.to_dicts(), "curves": output})
    if form == "json":
        for row in rows.to_dicts():
            say(json.dumps(row, allow_nan=False))
        return
    say(as_summary(table.shown(rows).to_dicts()), is_styled=True)
    say(f"curves: {output}")
