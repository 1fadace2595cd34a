"""`engine docs`: the pages that come with the installation, on the terminal."""

import click

from schemas.screen import page as show
from schemas.screen import say
from schemas.styled import has_colours


@click.command("docs")
@click.argument("name", metavar="[PAGE]", default="")
@click.option("--path", is_flag=True, help="Say where the page's file lies; without PAGE the folder of all.")
def command(name: str, path: bool) -> None:
    """Read the documentation: without PAGE the list of its pages, else that page.

    \b
    Example:
      engine docs
      engine docs losses
      engine docs losses --path
    """
    from engine.pages import page_of, pages

    if path:
        file = page_of(name or "index").path
        say(file if name else file.parent)
    elif name:
        chosen = page_of(name)
        if has_colours():
            show(_rendered(chosen.for_terminal()), is_styled=True)
        else:
            show(chosen.text())
    else:
        found = pages()
        widest = max(map(len, found), default=0)
        for each, page in found.items():
            say(f"{each.ljust(widest)}  {page.what}")
        say("\nengine docs PAGE shows one", as_it_is=True)


def _rendered(text: str) -> str:
    """Markdown with the colours and the tables of a terminal."""
    import shutil

    from rich.markdown import Markdown

    from schemas.printable import printable
    from schemas.screen import encodable
    from schemas.terminal import as_text

    width = min(shutil.get_terminal_size().columns, 110)
    return as_text(Markdown(encodable(printable(text)), hyperlinks=False, code_theme="ansi_dark"), width)
