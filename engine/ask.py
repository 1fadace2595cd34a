"""`engine sql`: one query's answer in a form to read or to pipe, or a prompt with history."""

import contextlib
import shutil
import sys
from pathlib import Path

import click
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from engine import sql as engine_sql
from schemas.commit import committed
from schemas.errors import UserError

_SHOWN_ROWS = 100


def list_queries() -> None:
    for name, (what, path) in engine_sql.ready().items():
        click.echo(f"{name:<20} {what}")
    click.echo(
        f"\nengine sql RUN NAME runs one; the files, to read and to copy, lie in {engine_sql.included('sql', 'macros', '.sql').parent}"
    )


_SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}


def sql(
    run: Path, query: str | None, form: str | None, output: Path | None, timeout: float, memory: int
) -> None:
    if output is not None:
        form = form or _SUFFIXES.get(output.suffix)
        if form in (None, "table"):
            raise UserError(
                f"-o {output}: say what to write by --format csv, json or parquet, or by the file's suffix; a table is for the screen and cuts off"
            )
    form = form or "table"
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise UserError("--format parquet needs -o FILE or a pipe: a terminal is no place for it")
    _cap_process(memory)
    with contextlib.closing(engine_sql.closed(engine_sql.views(run), memory)) as con:
        if query is None:
            _prompt(con, timeout)
            return
        rows = engine_sql.query(con, _text(query), timeout)
        if output is None:
            _show(rows.read_all(), form)
        else:
            _write(rows.read_all(), form, output)


def _text(query: str) -> str:
    ready = engine_sql.ready()
    return ready[query.strip()][1].read_text() if query.strip() in ready else query


def _cap_process(memory: int) -> None:
    """DuckDB's own limit does not see every allocation (repeat('x', 1e9) passed a limit of 200 MB): the process has one besides."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (2 * memory << 20) + (2 << 30), hard))


def _show(rows: pa.Table, form: str) -> None:
    frame = _frame(rows)
    if form == "table":
        if frame.is_empty():
            click.echo(f"no rows ({', '.join(frame.columns)})")
            return
        with pl.Config(
            tbl_hide_column_data_types=True,
            tbl_hide_dataframe_shape=True,
            tbl_rows=_SHOWN_ROWS,
            tbl_cols=-1,
            fmt_str_lengths=60,
            fmt_float="full",
            fmt_table_cell_list_len=6,
            tbl_width_chars=_width(),
        ):
            click.echo(frame.head(_SHOWN_ROWS))
        if len(frame) > _SHOWN_ROWS:
            click.echo(f"{_SHOWN_ROWS} of {len(frame):,} rows; --format csv or json prints all")
    elif form == "parquet":
        rows = _named_apart(rows)
        pq.write_table(rows, pa.PythonFile(sys.stdout.buffer), compression="zstd", write_page_checksum=True)
    elif form == "csv":
        click.echo(_flat(frame).write_csv(), nl=False)
    else:
        click.echo(_text_bytes(frame).write_ndjson(), nl=False)


def _width() -> int:
    """The terminal's, or where there is none enough for a dozen columns."""
    return max(shutil.get_terminal_size((160, 0)).columns, 80)


def _named_apart(rows: pa.Table) -> pa.Table:
    """Columns of one name, as a join has them, numbered."""
    seen: dict[str, int] = {}
    names = []
    for name in rows.column_names:
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return rows.rename_columns(names)


def _frame(rows: pa.Table) -> pl.DataFrame:
    try:
        frame = pl.from_arrow(_named_apart(rows))
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        pa.ArrowException,
        NotImplementedError,
        ValueError,
        TypeError,
    ) as error:
        kinds = ", ".join(f"{field.name} {field.type}" for field in rows.schema)
        raise UserError(
            f"a column of the answer is of a kind that cannot be shown ({str(error).splitlines()[0]}; {kinds}); cast it, as in x::varchar"
        ) from None
    assert isinstance(frame, pl.DataFrame)
    return frame


def _text_bytes(frame: pl.DataFrame) -> pl.DataFrame:
    """JSON and CSV have no bytes: they are written in base64."""
    return frame.with_columns(
        [pl.col(name).bin.encode("base64") for name, kind in frame.schema.items() if kind == pl.Binary]
    )


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """CSV has no lists: they are written as JSON."""
    frame = _text_bytes(frame)
    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    return frame.with_columns(
        [
            pl.Series(
                name,
                [
                    pl.Series([row]).to_frame("v").write_json()[6:-2] if row is not None else None
                    for row in frame[name]
                ],
            )
            for name in nested
        ]
    )


def _write(rows: pa.Table, form: str, output: Path) -> None:
    with committed(output) as temporary:
        if form == "parquet":
            pq.write_table(_named_apart(rows), temporary, compression="zstd", write_page_checksum=True)
        elif form == "csv":
            _flat(_frame(rows)).write_csv(temporary)
        else:
            _text_bytes(_frame(rows)).write_ndjson(temporary)
    click.echo(f"{output}: {len(rows):,} rows", err=True)


def _prompt(con, timeout: float) -> None:
    """A prompt: statements end with ';', history lies in the user's cache folder; Ctrl-C drops what is typed, Ctrl-D leaves."""
    import readline

    from schemas.commit import cache_folder

    history = cache_folder() / "sql_history"
    with contextlib.suppress(OSError):
        history.parent.mkdir(parents=True, exist_ok=True)
        readline.read_history_file(history)
    click.echo(
        "tables: prompts, responses, scores, logprobs, pairs, rejects; end a query with ';', leave with Ctrl-D"
    )
    typed = ""
    while True:
        try:
            typed += input("   ...> " if typed else "engine> ") + "\n"
            if not typed.strip().endswith(";") and typed.strip() not in engine_sql.ready():
                typed = typed if typed.strip() else ""
                continue
            _show(engine_sql.query(con, _text(typed.strip().rstrip(";")), timeout).read_all(), "table")
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
