"""`engine report`: one page of all that a run holds, in a file."""

from pathlib import Path

import click

from schemas.commands import RUN
from schemas.errors import UserError
from schemas.screen import say
from schemas.store import open_store


@click.command("report")
@RUN
@click.argument("more", metavar="[TRAINED]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The page, one file that needs nothing else.",
)
@click.option(
    "--pairs",
    "most",
    default=10_000,
    show_default=True,
    type=click.IntRange(0),
    help="Pairs in it, at most; fewer where they would make it larger than five megabytes.",
)
def command(run: str, more: tuple[str, ...], output: Path, most: int) -> None:
    """Write a page of what a RUN holds: its pairs, its data, its judges, its training runs.

    Pairs stand side by side, with what is changed between them and how likely the reference holds each token;
    they can be searched, filtered and sorted. Charts show lengths, scores, margins, judges and the curves of
    all training runs in RUN, and in the other run folders or train folders TRAINED. The page is one file: it
    opens from the disk, loads nothing, and can be sent on.

    \b
    Example:
      engine report runs/hh
      engine report runs/hh runs/hh-seed1 -o hh.html
    """
    from engine.report.build import build
    from schemas.store import write_output

    if output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"-o {output}: the page is HTML; give a name that ends in .html")
    page = build(open_store(run), [open_store(other) for other in more], most)
    write_output(output, lambda path: path.write_text(page.html, encoding="utf-8"))
    for remark in page.remarks:
        say(remark)
    megabytes = len(page.html.encode()) / 1e6
    say(f"{output}: {page.summary}; {megabytes:.1f} MB, open it in a browser")
