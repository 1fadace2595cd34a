"""`engine status`: what a run holds, and what of it no longer matches the recipe."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from schemas.commands import RUN, settings_option
from schemas.errors import UserError
from schemas.fetching import nothing_fetched
from schemas.loading import no_garbage
from schemas.manifest import Planned, tried
from schemas.plans import read_plan
from schemas.recipe import Recipe, load, load_of_run
from schemas.records import Damaged, what_of
from schemas.screen import say
from schemas.screen_tables import as_table
from schemas.store import Store, open_store

if TYPE_CHECKING:
    from engine.gaps import Looked
    from engine.plan import Run


# Files and bytes that are read to see damage in them, of those that are not known from before.
_MOST_READ = (256, 64 << 20)


@click.command("status")
@RUN
@click.option(
    "--recipe",
    type=click.Path(dir_okay=False),
    help="Compare with this recipe in place of the one the run was made with.",
)
@settings_option()
def command(run: str, recipe: str | None, settings: tuple[str, ...]) -> None:
    """Show what a RUN holds: shards, rows and rejects of each stage, and what no longer matches the recipe.

    Inputs and models are looked at again: weights that changed under the same name are named.

    \b
    Example:
      engine status runs/hh
      engine status runs/hh --set logprobs.max_length=256
    """
    store = open_store(run)
    read_plan(store)  # says clearly where this is no run
    if recipe:
        status(store, load(recipe, settings))
        return
    try:
        made_with = load_of_run(store, settings)
    except UserError as error:
        if settings:
            raise  # most likely one of these is wrong
        # Values that an older version took are refused now: what was made is still there.
        _print_without_recipe(store, error)
    else:
        status(store, made_with)


def status(where: str | Path | Store, recipe: Recipe) -> None:
    """Print a table of the stages, the rejects by reason, and for each folder that no longer matches why."""
    from engine import made_with
    from engine.plan import plan
    from engine.table_files import looks

    store = open_store(where)
    try:
        with nothing_fetched():
            run = plan(store, recipe)
    except UserError as error:
        # The input or the model may be gone for good: what was made of them is still there.
        _print_without_recipe(store, error)
        return
    planned = list(run.planned.values())
    looked = looks(store, planned)
    _print_table(planned, run.shards, looked)
    _print_differences(run, looked)
    for line in made_with.shown(run):
        say(line)
    _print_rejects(store, looked)


def _print_without_recipe(store: Store, error: UserError) -> None:
    """Show what is there, where what the recipe asks for now cannot be known."""
    from engine.table_files import looks

    planned, shards = read_plan(store)
    looked = looks(store, planned)
    _print_table(planned, shards, looked)
    say(f"whether this is still what the recipe asks for cannot be said: {error}")
    _print_rejects(store, looked)


def _print_table(planned: Sequence[Planned], shards: int, looked: "Looked") -> None:
    import polars as pl

    rows = []
    damaged: list[str] = []
    for stage in planned:
        made = 0
        tables: Counter[str] = Counter()
        found = looked[stage.folder]
        if isinstance(found, Damaged):
            damaged.append(what_of(found))
        else:
            made = len(found.shards)
            tables = found.shards.rows_by_table()
        counts = [f"{count:,} {table}" for table, count in sorted(tables.items())]
        rows.append(
            {
                "folder": stage.folder,
                "shards": f"{made}/{shards}",
                "rows": ", ".join(counts) or "none yet",
            }
        )
    table = as_table(pl.DataFrame(rows), fmt_str_lengths=200, tbl_width_chars=200, tbl_rows=-1)
    say(table, as_it_is=True)
    for what in damaged:
        say(f"{what}, so its folder is not counted: `engine precompute` makes it again")


def _print_differences(run: "Run", looked: "Looked") -> None:
    """Say which folders and shards are not what the recipe asks for, and why."""
    from engine.gaps import Damage, survey
    from engine.plan import what_changed
    from schemas.contents import Allowance

    damages: list[Damage] = []
    allowance = Allowance(*_MOST_READ)
    with no_garbage():
        stale = survey(run, damages.append, allowance, looked).stale
    for damage in damages:
        say(f"{damage.what}: `engine precompute` makes it again")
    if allowance.left_out:
        say(
            f"what {allowance.left_out:,} files hold was not looked at, since it would take long: "
            f"`engine verify {run.store}` reads all"
        )
    if stale:
        say(
            f"{stale} shards were made from shards that are not there any more: "
            "`engine precompute` makes them again"
        )
    for stage in run.stages:
        for other, changes in what_changed(run, stage):
            say(f"{other} is not what the recipe asks for: {'; '.join(changes)}")


def _print_rejects(store: Store, looked: "Looked") -> None:
    """How many rows each stage refused, by reason; of very many files the first ones are read."""
    from engine.make import read_file
    from engine.table_files import files_of

    reasons: Counter[tuple[str, str]] = Counter()
    left = _MOST_READ[0]
    unread = 0
    try:
        for planned in read_plan(store)[0]:
            found = looked.get(planned.folder) or tried(store.child(planned.folder))
            if isinstance(found, Damaged):
                raise found
            files = files_of(found, ["rejects"])
            unread += sum(file.rows for file in files[left:])
            for file in files[:left]:
                rows = read_file(found.folder, file)
                reasons.update(zip(rows["stage"].to_pylist(), rows["reason"].to_pylist(), strict=True))
            left -= len(files[:left])
    except Damaged as error:
        say(f"what was refused cannot be counted: {error}")
        return
    for (stage, reason), count in sorted(reasons.items()):
        say(f"rejects: {count:,} {reason} in {stage}")
    if unread:
        say(f"rejects: {unread:,} more in files that were not read; `engine sql {store} rejects` counts all")
