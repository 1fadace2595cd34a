"""`engine sql`: one query's answer in a form to read or to pipe, or a prompt with history."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from schemas.errors import UserError
from schemas.store import open_store

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_FORMS = ("table", "csv", "json", "parquet")
_FORM_OF_SUFFIX = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}


@click.command("sql")
@click.argument("run", required=False)
@click.argument("query", required=False)
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
    "--timeout",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Seconds a query may take.",
)
@click.option(
    "--memory",
    default=4096,
    show_default=True,
    type=click.IntRange(64),
    help="Megabytes a query may take.",
)
def command(
    run: str | None,
    query: str | None,
    form: str | None,
    output: Path | None,
    list_: bool,
    timeout: float,
    memory: int,
) -> None:
    """Ask a RUN in SQL (DuckDB), at any moment, on what is finished; without QUERY, at a prompt.

    Tables: prompts, responses, scores, logprobs, pairs, rejects. They can be read and nothing else: no file,
    no network, no extension.

    \b
    Example:
      engine sql runs/hh "select split, count(*), avg(chosen_length) from pairs group by 1"
      engine sql runs/hh rejects
    """
    if list_:
        _list_queries()
        return
    if run is None:
        raise click.UsageError('name a run folder, as in `engine sql runs/hh "select count(*) from pairs"`')
    if query is None and not sys.stdin.isatty():
        raise click.UsageError("no query, and no terminal to ask for one at")
    form = _form_of(form, output)

    from engine import sql

    _cap_process(memory)
    views = sql.views(open_store(run))
    with contextlib.closing(sql.closed(views, memory)) as con:
        if query is None:
            _ask(con, timeout)
            return
        rows = sql.query(con, _text_of(query), timeout).read_all()
        if output is None:
            _show(rows, form)
        else:
            _write(rows, form, output)


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
    from engine import sql

    ready = sql.ready()
    folders = {query.path.parent for query in ready.values()}
    for name, query in ready.items():
        click.echo(f"{name:<20} {query.what}")
    where = ", ".join(map(str, sorted(folders)))
    click.echo(f"\nengine sql RUN NAME runs one; the files, to read and to copy, lie in {where}")


def _text_of(query: str) -> str:
    """The SQL of a ready query by its name; any other text is SQL itself."""
    from engine import sql

    ready = sql.ready().get(query.strip())
    return ready.path.read_text() if ready else query


def _cap_process(memory: int) -> None:
    """Cap the memory of the whole process: DuckDB's own limit does not see every allocation.

    repeat('x', 1e9) passed a limit of 200 MB."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (2 * memory << 20) + (2 << 30), hard))


def _show(rows: "pa.Table", form: str) -> None:
    from engine import answers

    if form == "table":
        click.echo(answers.as_table(rows))
    elif form == "csv":
        click.echo(answers.as_csv(rows), nl=False)
    elif form == "json":
        click.echo(answers.as_json(rows), nl=False)
    else:
        _show_parquet(rows)


def _write(rows: "pa.Table", form: str, output: Path) -> None:
    from engine import answers

    answers.write(rows, form, output)
    click.echo(f"{output}: {len(rows):,} rows", err=True)


def _show_parquet(rows: "pa.Table") -> None:
    """Write Parquet into the pipe that standard output is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from engine import answers

    pq.write_table(
        answers.with_unique_names(rows),
        pa.PythonFile(sys.stdout.buffer),
        compression="zstd",
        write_page_checksum=True,
    )


def _ask(con: "duckdb.DuckDBPyConnection", timeout: float) -> None:
    """Answer queries typed at a prompt.

    A statement ends with ';'. Ctrl-C drops what is typed, Ctrl-D leaves. The history is kept in the user's
    cache folder."""
    import readline

    from engine import sql
    from schemas.digest import cache_folder

    history = cache_folder() / "sql_history"
    with contextlib.suppress(OSError):
        history.parent.mkdir(parents=True, exist_ok=True)
        readline.read_history_file(history)
    click.echo(
        "tables: prompts, responses, scores, logprobs, pairs, rejects; "
        "end a query with ';', leave with Ctrl-D"
    )
    typed = ""
    while True:
        try:
            typed += input("   ...> " if typed else "engine> ") + "\n"
            text = typed.strip()
            if not text.endswith(";") and text not in sql.ready():
                typed = typed if text else ""
                continue
            rows = sql.query(con, _text_of(text.rstrip(";")), timeout).read_all()
            _show(rows, "table")
        except UserError as error:
            click.echo(f"error: {error}", err=True)
        except KeyboardInterrupt:
            click.echo()
        except EOFError:
            click.echo()
            break
        typed = ""
    with contextlib.suppress(OSError):
        readline.write_history_file(history)
    sys.stdout.flush()
