"""`engine status`: what a run holds, and what of it no longer matches the recipe."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from schemas.commands import RUN, settings_option
from schemas.errors import UserError
from schemas.fetching import nothing_fetched
from schemas.manifest import Marker, Planned, read_markers, rows_by_table
from schemas.plans import read_plan
from schemas.recipe import Recipe, load, load_of_run
from schemas.records import Damaged, what_of
from schemas.screen import say
from schemas.screen_tables import as_table
from schemas.store import Store, open_store

if TYPE_CHECKING:
    from engine.plan import Run


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

    store = open_store(where)
    try:
        with nothing_fetched():
            run = plan(store, recipe)
    except UserError as error:
        # The input or the model may be gone for good: what was made of them is still there.
        _print_without_recipe(store, error)
        return
    _print_table(store, list(run.planned.values()), run.shards)
    _print_differences(run)
    for line in made_with.shown(run):
        say(line)
    _print_rejects(store)


def _print_without_recipe(store: Store, error: UserError) -> None:
    """Show what is there, where what the recipe asks for now cannot be known."""
    _print_table(store, *read_plan(store))
    say(f"whether this is still what the recipe asks for cannot be said: {error}")
    _print_rejects(store)


def _print_table(store: Store, planned: Sequence[Planned], shards: int) -> None:
    import polars as pl

    rows = []
    damaged: list[str] = []
    for stage in planned:
        markers: list[Marker] = []
        try:
            markers = read_markers(store.child(stage.folder))
        except Damaged as error:
            damaged.append(what_of(error))
        tables: Counter[str] = Counter()
        for marker in markers:
            tables.update(rows_by_table(marker))
        counts = [f"{count:,} {table}" for table, count in sorted(tables.items())]
        rows.append(
            {
                "folder": stage.folder,
                "shards": f"{len(markers)}/{shards}",
                "rows": ", ".join(counts) or "none yet",
            }
        )
    table = as_table(pl.DataFrame(rows), fmt_str_lengths=200, tbl_width_chars=200, tbl_rows=-1)
    say(table, as_it_is=True)
    for what in damaged:
        say(f"{what}, so its folder is not counted: `engine precompute` makes it again")


def _print_differences(run: "Run") -> None:
    """Say which folders and shards are not what the recipe asks for, and why."""
    from engine.gaps import Damage, missing, stale_shards
    from engine.plan import what_changed

    damages: list[Damage] = []
    missing(run, damages.append)
    for damage in damages:
        say(f"{damage.what}: `engine precompute` makes it again")
    stale = stale_shards(run)
    if stale:
        say(
            f"{stale} shards were made from shards that are not there any more: "
            "`engine precompute` makes them again"
        )
    for stage in run.stages:
        for other, changes in what_changed(run, stage):
            say(f"{other} is not what the recipe asks for: {'; '.join(changes)}")


def _print_rejects(store: Store) -> None:
    import duckdb

    from engine import sql

    try:
        rejects = sql.views(store)["rejects"]
    except Damaged as error:
        say(f"what was refused cannot be counted: {error}")
        return
    with duckdb.connect() as con:
        con.register("rejects", rejects)
        rows = con.sql("select stage, reason, count(*) from rejects group by all order by all").fetchall()
    for stage, reason, count in rows:
        say(f"rejects: {count:,} {reason} in {stage}")
