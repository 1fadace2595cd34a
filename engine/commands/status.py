"""`engine status`: what a run holds, and what of it no longer matches the recipe."""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from schemas import screen, terminal
from schemas.commands import RUN, Command, output_options, settings_option
from schemas.errors import UserError
from schemas.fetching import nothing_fetched
from schemas.manifest import Planned
from schemas.plans import read_plan
from schemas.printable import one_line
from schemas.recipe import Recipe, load, load_of_run
from schemas.redaction import redacted
from schemas.screen import say
from schemas.store import Store, open_store

if TYPE_CHECKING:
    from rich.console import RenderableType

    from engine.condition import Condition, Rejects
    from engine.plan import Run

_SECONDS = 5  # between two looks of --watch


class _Status(Command):
    """`--watch` may stand before RUN without its number: what follows is taken for it only if it is one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given: list[str] = []
        for place, word in enumerate(args):
            follows = args[place + 1 : place + 2]
            is_alone = word == "--watch" and not (follows and follows[0].isdigit())
            given.append(f"--watch={_SECONDS}" if is_alone else word)
        return super().parse_args(ctx, given)


@click.command("status", cls=_Status)
@RUN
@click.option(
    "--recipe",
    type=click.Path(dir_okay=False),
    help="Compare with this recipe in place of the one the run was made with.",
)
@settings_option()
@click.option(
    "--watch",
    metavar="[SECONDS]",
    type=click.IntRange(1, 86400),
    help=f"Look again every {_SECONDS} seconds, or so many, until every shard is there.",
)
@output_options(lines_are_result=True)
def command(run: str, recipe: str | None, settings: tuple[str, ...], watch: int | None) -> None:
    """Show what a RUN holds: shards, rows and rejects of each stage, and what no longer matches the recipe.

    Inputs and models are looked at again: weights that changed under the same name are named.

    \b
    Example:
      engine status runs/hh
      engine status runs/hh --watch
      engine status runs/hh --set logprobs.max_length=256
    """
    store = open_store(run)
    read_plan(store)  # says clearly where this is no run
    if watch is not None and screen.gives_document():
        raise click.UsageError("--watch shows a table again and again, --json gives one document: take one")
    asked: Recipe | UserError
    try:
        asked = load(recipe, settings) if recipe else load_of_run(store, settings)
    except UserError as error:
        if settings or recipe:
            raise  # most likely one of these is wrong
        # Values that an older version took are refused now: what was made is still there.
        asked = error
    planned = _planned(store, asked)
    if watch is not None:
        _watch(store, planned, watch)
    condition = _show(store, planned)
    screen.give(condition.document)


def status(where: str | Path | Store, recipe: Recipe) -> None:
    """Print a table of the stages, the rejects by reason, and for each folder that no longer matches why."""
    store = open_store(where)
    _show(store, _planned(store, recipe))


def _planned(store: Store, recipe: Recipe | UserError) -> "Run | UserError":
    """The run that a recipe asks for, or why that cannot be known."""
    from engine.plan import plan

    if isinstance(recipe, UserError):
        return recipe
    try:
        with nothing_fetched():
            return plan(store, recipe)
    except UserError as error:
        # The input or the model may be gone for good: what was made of them is still there.
        return error


def _asked_for(store: Store, run: "Run | UserError") -> tuple[Sequence[Planned], int]:
    """The folders to look into, and how many shards each is to have."""
    if isinstance(run, UserError):
        return read_plan(store)
    return list(run.planned.values()), run.shards


def _show(store: Store, run: "Run | UserError") -> "Condition":
    """Print what is there, each part as soon as it is known."""
    from engine import condition as looking

    planned, shards = _asked_for(store, run)
    condition, looked = looking.look(store, planned, shards)
    say(_table(condition), is_styled=True)
    for stage in condition.stages:
        if stage.damage:
            condition.add(stage.damage, say)
    if isinstance(run, UserError):
        condition.add(f"whether this is still what the recipe asks for cannot be said: {run}", say)
    else:
        for remark in looking.differences(run, looked):
            condition.add(remark, say)
    condition.rejects = looking.refused(store, looked)
    for line in _reject_lines(store, condition.rejects):
        say(line)
    return condition


def _table(condition: "Condition") -> str:
    from schemas.summaries import as_summary

    rows: list[dict[str, object]] = []
    for stage in condition.stages:
        counts = [f"{count:,} {table}" for table, count in stage.rows.items()]
        rows.append(
            {
                "folder": stage.folder,
                "shards": f"{stage.shards}/{condition.shards}",
                "rows": ", ".join(counts) or "none yet",
            }
        )
    return as_summary(rows)


def _reject_lines(store: Store, rejects: "Rejects") -> Iterator[str]:
    if rejects.damage:
        yield f"what was refused cannot be counted: {rejects.damage}"
    for (stage, reason), count in sorted(rejects.counts.items()):
        yield f"rejects: {count:,} {reason} in {stage}"
    if rejects.unread:
        rest = f"`engine sql {store} rejects` counts all"
        yield f"rejects: {rejects.unread:,} more in files that were not read; {rest}"


def _watch(store: Store, run: "Run | UserError", seconds: int) -> None:
    """Show the table anew every so many seconds until every shard is there. The recipe is not read again."""
    from engine import condition as looking

    planned, shards = _asked_for(store, run)
    seen, _ = looking.look(store, planned, shards)
    if seen.is_complete:
        return
    if not terminal.can_move(sys.stdout):
        while not seen.is_complete:
            say(_table(seen), is_styled=True)
            say(_how_far(seen, seconds))
            for line in _troubles(seen, run):
                say(line)
            time.sleep(seconds)
            seen, _ = looking.look(store, planned, shards)
        return

    def drawn(width: int) -> "RenderableType":
        from rich.text import Text

        said = [_table(seen), *map(one_line, [_how_far(seen, seconds), *_troubles(seen, run)])]
        return Text.from_ansi("\n".join(said))

    with terminal.drawn(terminal.live(drawn, sys.stdout)):
        while not seen.is_complete:
            time.sleep(seconds)
            seen, _ = looking.look(store, planned, shards)


def _troubles(condition: "Condition", run: "Run | UserError") -> list[str]:
    """Why the run may never be complete as it is."""
    said = [stage.damage for stage in condition.stages if stage.damage]
    if isinstance(run, UserError):
        said.append(f"whether this is still what the recipe asks for cannot be said: {run}")
    return [redacted(line) for line in said]


def _how_far(condition: "Condition", seconds: int) -> str:
    made = sum(stage.shards for stage in condition.stages)
    wanted = condition.shards * len(condition.stages)
    clock = time.strftime("%H:%M:%S", time.localtime(condition.at))
    return f"{made:,} of {wanted:,} shards at {clock}; looks again every {seconds} s, Ctrl-C ends"
