"""`engine sql`: one query's answer in a form to read or to pipe, or a prompt with history."""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.ready import ready as ready_queries
from engine.ready import text_of
from schemas import completion
from schemas.errors import UserError
from schemas.screen import binary_output, hand_over, page, say
from schemas.store import open_store

if TYPE_CHECKING:
    import pyarrow as pa


@completion.quietly
def _queries(context: click.Context, parameter: click.Parameter, begun: str) -> completion.Items:
    return completion.that_fit(list(ready_queries()), begun)


_FORMS = ("table", "csv", "json", "parquet")
_FORM_OF_SUFFIX = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}


@click.command("sql")
@click.argument("run", required=False, shell_complete=completion.runs)
@click.argument("query", required=False, shell_complete=_queries)
@click.option(
    "--format",
    "form",
    show_default="table, or by the suffix of -o",
    type=click.Choice(_FORMS),
    help="How to give the answer; parquet goes to -o or a pipe.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the answer to this file.",
)
@click.option(
    "--list",
    "list_",
    is_flag=True,
    help="List the ready queries; give the name of one in place of QUERY.",
)
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of a ready query; may be given several times.",
)
@click.option("--limit", type=click.IntRange(0), help="--param limit=N, the rows of a ready query.")
@click.option(
    "--wide", is_flag=True, help="A table even where it does not fit; else it is then shown row by row."
)
@click.option("--full", is_flag=True, help="Texts, lists and numbers as they are, nothing cut off.")
@click.option(
    "--timeout",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0, 1e6, min_open=True),
    help="Seconds a query may take.",
)
@click.option(
    "--memory",
    default=4096,
    show_default=True,
    type=click.IntRange(64, 1 << 24),
    help="Megabytes a query may take.",
)
def command(
    run: str | None,
    query: str | None,
    form: str | None,
    output: Path | None,
    list_: bool,
    params: tuple[str, ...],
    limit: int | None,
    wide: bool,
    full: bool,
    timeout: float,
    memory: int,
) -> None:
    """Ask a RUN in SQL (DuckDB), at any moment, on what is finished; without QUERY, at a prompt.

    Tables: pairs_text (to read), pairs, prompts, responses, scores, logprobs, rejects, metrics (of
    trainings), and your own in RUN/tables/NAME.parquet; `describe TABLE` says what is in them. They can be
    read and nothing else: no file, no network, no extension.

    \b
    Example:
      engine sql runs/hh "select split, count(*), avg(chosen_length) from pairs group by 1"
      engine sql runs/hh "select * from pairs_text limit 3"
      engine sql runs/hh rejects
    """
    if list_:
        _list_queries()
        return
    if run is None:
        raise click.UsageError('name a run folder, as in `engine sql runs/hh "select count(*) from pairs"`')
    if query is None and not sys.stdin.isatty():
        raise click.UsageError("no query, and no terminal to ask for one at")
    if timeout != timeout:  # NaN lies in every range
        raise click.UsageError("--timeout is not a number")
    form = _form_of(form, output)
    if form != "table" and (wide or full):
        raise click.UsageError(f"--wide and --full are for tables: {form} has all of it")
    given = _params_of(params, limit)
    if query is None and given:
        raise click.UsageError("parameters are those of a ready query: name one")
    text = None if query is None else text_of(query, given)
    _answer(run, text, _Wanted(form, output, wide, full), timeout, memory)


def _params_of(params: Sequence[str], limit: int | None) -> dict[str, str]:
    """The parameters that were given, by their names."""
    given: dict[str, str] = {} if limit is None else {"limit": str(limit)}
    for param in params:
        name, sign, value = param.partition("=")
        if not sign or not name:
            raise click.UsageError(f"--param {param}: expected NAME=VALUE")
        given[name.strip()] = value.strip()
    return given


@dataclass(frozen=True)
class _Wanted:
    """How an answer is given, and where: None for the screen, or what reads from it."""

    form: str
    output: Path | None
    wide: bool
    full: bool


def _answer(run: str, query: str | None, wanted: _Wanted, timeout: float, memory: int) -> None:
    """Answer a query, or those typed at a prompt, in a process that can be ended."""
    from engine.query_process import QueryProcess

    store = open_store(run)
    with QueryProcess(memory) as process, tempfile.TemporaryDirectory() as beside:
        # Imported while that process begins.
        import polars  # noqa: F401

        from engine import described, metrics_table, tables_beside
        from engine.table_files import RunFiles

        files = RunFiles(store)
        named = None if query is None else described.read_by(query) or process.named(query, timeout)
        tables = files.of_tables(named) if named else files.of_tables()
        if not named or metrics_table.NAME in named:
            tables[metrics_table.NAME] = metrics_table.write(store, Path(beside))
        tables |= tables_beside.copied(store, Path(beside))
        process.open(tables)
        not_all = files.unfinished()
        if not_all:
            say(f"not all is made: {', '.join(not_all)}", err=True)
        if query is None:
            from engine.commands.prompt import ask

            ask(process, timeout, wanted.wide, wanted.full)
            return
        rows = process.ask(query, timeout)
    if wanted.output is None:
        _show(rows, wanted)
    else:
        _write(rows, wanted.form, wanted.output)


def _form_of(form: str | None, output: Path | None) -> str:
    """The form asked for, or that of the output's suffix. Raises UserError for one that cannot go there."""
    if output is not None:
        form = form or _FORM_OF_SUFFIX.get(output.suffix)
        if form in (None, "table"):
            raise UserError(
                f"-o {output}: say what to write by --format csv, json or parquet, or by the file's suffix; "
                "a table is for the screen and cuts off"
            )
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise UserError("--format parquet needs -o FILE or a pipe: a terminal is no place for it")
    return form or "table"


def _list_queries() -> None:
    ready = ready_queries()
    folders = {query.path.parent for query in ready.values()}
    for name, query in ready.items():
        say(f"{name:<20} {query.what}")
        for param, usual in query.params.items():
            say(f"{'':<20} --param {param}={usual}")
    where = ", ".join(map(str, sorted(folders)))
    say()
    say(f"engine sql RUN NAME runs one; the files, to read and to copy, lie in {where}")


def _show(rows: "pa.Table", wanted: _Wanted) -> None:
    from engine import answers

    if wanted.form == "table":
        page(answers.as_table(rows, answers.looks(wanted.wide, wanted.full)))
    elif wanted.form == "csv":
        hand_over(answers.as_csv(rows))
    elif wanted.form == "json":
        hand_over(answers.as_json(rows))
    else:
        _show_parquet(rows)


def _write(rows: "pa.Table", form: str, output: Path) -> None:
    from engine import answers

    answers.write(rows, form, output)
    say(f"{output}: {len(rows):,} rows", err=True)


def _show_parquet(rows: "pa.Table") -> None:
    """Write Parquet into the pipe that standard output is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from engine import answers

    with binary_output() as output:
        pq.write_table(
            answers.with_unique_names(rows),
            pa.PythonFile(output),
            compression="zstd",
            write_page_checksum=True,
        )
