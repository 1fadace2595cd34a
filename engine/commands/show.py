"""`engine show`: one prompt, and all that a run made of it, to be read."""

import shutil

import click

from schemas.commands import RUN
from schemas.screen import page
from schemas.store import open_store

_WIDEST = 120  # characters of a line of text; longer ones are hard to read


@click.command("show")
@RUN
@click.argument("wanted", metavar="[ID]", required=False)
@click.option("--random", "is_random", is_flag=True, help="A pair at random; so it is without an ID, too.")
@click.option(
    "--worst",
    metavar="SCORER",
    help="The pair whose rejected response SCORER puts highest above the chosen.",
)
@click.option("--tokens", "with_tokens", is_flag=True, help="Each token with its reference log-prob.")
def command(run: str, wanted: str | None, is_random: bool, worst: str | None, with_tokens: bool) -> None:
    """Show one prompt of a RUN with all its responses, who scored them how, and what its pairs differ in.

    ID is that of a pair, a prompt or a response; its first letters are enough, six at least.

    \b
    Example:
      engine show runs/hh
      engine show runs/hh 3b4f74
      engine show runs/hh --worst rating --tokens
    """
    if sum((wanted is not None, is_random, worst is not None)) > 1:
        raise click.UsageError("give an ID, or --random, or --worst SCORER")
    from engine.story.gather import story_of
    from engine.story.tokens import LEGEND, Tokens
    from engine.story.written import written
    from schemas.styled import Part, has_colours, styled

    store = open_store(run)
    story = story_of(store, wanted, worst)
    tokens = Tokens.of(store) if with_tokens else None
    width = min(shutil.get_terminal_size((_WIDEST, 0)).columns, _WIDEST)
    parts = written(story, width, tokens)
    if tokens is not None and has_colours():
        parts.append(Part(f"{LEGEND}\n", {"dim": True}))
    page(styled(parts, has_colours()).rstrip("\n"), is_styled=True)
