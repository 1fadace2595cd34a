"""python -m pipelines.docs: whether the parts of the pages that are written from the code are up to date.

With --write they are written anew.
"""

import click

from pipelines.docs.written import PAGES, as_it_should_be
from schemas.commands import CONTEXT, Command
from schemas.errors import UserError
from schemas.screen import say


@click.command(cls=Command, context_settings=CONTEXT)
@click.option("--write", is_flag=True, help="Write them anew.")
def main(write: bool) -> None:
    """Check the parts of the pages that are written from the code: keys, commands, losses."""
    old = [page for page in PAGES if page.read_text(encoding="utf-8") != as_it_should_be(page)]
    names = ", ".join(page.name for page in old)
    if old and not write:
        raise UserError(f"{names}: older than the code; python -m pipelines.docs --write")
    for page in old:
        page.write_text(as_it_should_be(page), encoding="utf-8")
    say(f"written: {names}" if old else "all pages are up to date")


if __name__ == "__main__":
    main(prog_name="python -m pipelines.docs")
