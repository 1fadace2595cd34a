"""The command `engine`: raw rows to pairs, and a look at what there is. The only place in engine that writes to the screen.

Imports are inside the commands: `--help` must not wait for torch.
"""

import logging
import os
import sys
from pathlib import Path

import click

from schemas.errors import exit_on_user_error

_SETTING = "section.key=value, over the recipe's own; may be given several times."


class Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            with exit_on_user_error("what is finished is kept: run the same command to go on"):
                return super().invoke(ctx)
        except BrokenPipeError:
            # `engine sql … | head`: whoever read us has seen enough. Work that was cut off by it is not done.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0 if ctx.invoked_subcommand in ("sql", "status") else 1)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="prefmill", message="prefmill %(version)s")
def main() -> None:
    """Preference data to cached shards: candidates, scores and per-token reference log-probs, once, in bulk, into Parquet."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("prefmill").setLevel(logging.INFO)


@main.command()
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option(
    "-o",
    "--output",
    "run",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Run folder; what it holds is reused.",
)
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help=_SETTING)
@click.option(
    "--workers",
    default=0,
    show_default="one for each device",
    type=click.IntRange(0),
    help="Processes that make shards side by side.",
)
def precompute(recipe: str, run: Path, settings: tuple[str, ...], workers: int) -> None:
    """Make all that a RECIPE's stages ask for, into a run folder.

    What is there is kept, what is missing is made; a run that was killed goes on where it was.

    \b
    Example:
      engine precompute pipelines/recipes/dpo.toml -o runs/hh \\
          --set prompts.source=hh-harmless.jsonl.gz --set model.name=stories260K
    """
    from engine import precompute as job
    from schemas.recipe import load

    job.precompute(run, load(recipe, settings), workers)


@main.command()
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--recipe",
    type=click.Path(dir_okay=False),
    help="Compare with this recipe in place of the one the run was made with.",
)
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help=_SETTING)
def status(run: Path, recipe: str | None, settings: tuple[str, ...]) -> None:
    """Show what a RUN holds: shards, rows and rejects of each stage, and what no longer matches the recipe.

    Inputs and models are looked at again: weights that changed under the same name are named.

    \b
    Example:
      engine status runs/hh
      engine status runs/hh --set logprobs.max_length=256
    """
    from engine import precompute as job
    from schemas.manifest import read_plan
    from schemas.recipe import load

    read_plan(run)  # says clearly where this is no run
    job.status(run, load(recipe or run / "recipe.toml", settings))


@main.command()
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="section.key=value, over the run's own recipe: verify.sample, verify.tolerance, train.dtype.",
)
@click.option(
    "--both/--trainer-alone",
    default=True,
    show_default=True,
    help="Also by the other backend, where it is installed; or by the trainer's forward alone.",
)
def verify(run: Path, settings: tuple[str, ...], both: bool) -> None:
    """Score a sample of a RUN's log-probs again, in other ways, and fail where they differ.

    By the trainer's own forward, and by the other backend where it is installed. Every file's digest is taken anew; BOS, EOS and the border of
    prompt and response are counted. What was found lies in RUN/verify.json.

    \b
    Example:
      engine verify runs/hh
      engine verify runs/hh --set verify.sample=500 --set train.dtype=bfloat16
    """
    from engine import verify as job
    from schemas.manifest import read_plan
    from schemas.recipe import load

    read_plan(run)  # says clearly where this is no run
    job.check(run, load(run / "recipe.toml", settings), both)


@main.command()
@click.argument("run", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.argument("query", required=False)
@click.option(
    "--format",
    "form",
    show_default="table, or by the suffix of -o",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    help="How to give the answer; parquet goes to -o or a pipe.",
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the answer to this file."
)
@click.option(
    "--list", "list_", is_flag=True, help="List the ready queries; give the name of one in place of QUERY."
)
@click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Seconds a query may take.",
)
@click.option(
    "--memory", default=4096, show_default=True, type=click.IntRange(64), help="Megabytes a query may take."
)
def sql(
    run: Path | None,
    query: str | None,
    form: str | None,
    output: Path | None,
    list_: bool,
    timeout: float,
    memory: int,
) -> None:
    """Ask a RUN in SQL (DuckDB), at any moment, on what is finished; without QUERY, at a prompt.

    Tables: prompts, responses, scores, logprobs, pairs, rejects. They can be read and nothing else: no file, no network, no extension.

    \b
    Example:
      engine sql runs/hh "select split, count(*), avg(chosen_length) from pairs group by 1"
      engine sql runs/hh rejects
    """
    from engine import ask

    if list_:
        ask.list_queries()
    elif run is None:
        raise click.UsageError('name a run folder, as in `engine sql runs/hh "select count(*) from pairs"`')
    elif query is None and not sys.stdin.isatty():
        raise click.UsageError("no query, and no terminal to ask for one at")
    else:
        ask.sql(run, query, form, output, timeout, memory)


if __name__ == "__main__":
    main()
