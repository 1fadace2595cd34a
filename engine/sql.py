"""SQL over tables, closed in: it reads what it is given and reaches nothing else.

- DuckDB never opens a file. pyarrow reads the shards that markers name, after their digests were checked, and
  DuckDB queries the Arrow data.
- So access to files, the network and extensions is switched off altogether, in the order that held when it
  was tried. A query that writes (`COPY`, `ATTACH`, `INSTALL`, even inside EXPLAIN) has nothing to open.
- Time and memory are bounded; `engine sql` caps its process besides.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from schemas.errors import UserError
from schemas.extensions import files
from schemas.manifest import read_markers, read_plan, verify
from schemas.store import Store
from schemas.tables import TABLES

_QUERY_MARK = "-- query:"
# How DuckDB says that a query, or one of our functions in it, was interrupted.
_INTERRUPTED = (
    "Query interrupted",
    "INTERRUPT Error",
    "Invalid Input Error: Python exception occurred while executing the UDF: KeyboardInterrupt",
)
_CLOSED = (
    "SET temp_directory=''",
    "SET python_enable_replacements=false",
    "SET autoinstall_known_extensions=false",
    "SET autoload_known_extensions=false",
    "SET allow_community_extensions=false",
    "SET allow_persistent_secrets=false",
    "SET enable_external_access=false",
    "SET disabled_filesystems='LocalFileSystem'",
    "SET lock_configuration=true",
)


def closed(tables: dict[str, pa.Table | ds.Dataset], memory_mb: int = 4096) -> duckdb.DuckDBPyConnection:
    """A connection that sees these tables and nothing else. Its queries may hold `memory_mb` of memory."""
    con = duckdb.connect(":memory:")
    for name, rows in tables.items():
        con.register(name, rows)
    con.execute(f"SET memory_limit='{memory_mb}MB'")
    for setting in _CLOSED:
        con.execute(setting)
    return con


def over(
    tables: dict[str, pa.Table], query: str, where: str, settings: dict[str, object] | None = None
) -> pa.Table:
    """The answer of a stage's query over its shard's tables; it reads a setting by getvariable('name').

    Raises UserError, beginning with `where`, if the SQL fails.
    """
    with contextlib.closing(closed(tables)) as con:
        for name, value in (settings or {}).items():
            con.execute(f"SET VARIABLE {name} = ?", [value])
        try:
            with ctrl_c():
                return con.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise UserError(f"{where}: its SQL fails: {error}") from None


@contextlib.contextmanager
def ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt for Ctrl-C during a query, which DuckDB turns into an error of its own.

    Its message is judged by its beginning, since what follows may be the text of a row."""
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        is_interrupt = isinstance(error, duckdb.InterruptException)
        if is_interrupt or str(error).startswith(_INTERRUPTED):
            raise KeyboardInterrupt from None
        raise


def views(run: Store) -> dict[str, ds.Dataset]:
    """Every table of a run, with the rows finished at this moment. A table without rows has its columns."""
    planned, _ = read_plan(run)
    shards: dict[str, list[str]] = {name: [] for name in TABLES}
    for stage in planned:
        folder = run.child(stage.folder)
        for marker in read_markers(folder):
            for file in marker.files:
                shards[file.table].append(str(verify(folder, file)))
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    parquet = ds.ParquetFileFormat(default_fragment_scan_options=options)
    datasets: dict[str, ds.Dataset] = {}
    for name, paths in shards.items():
        if paths:
            datasets[name] = ds.dataset(paths, schema=TABLES[name], format=parquet)
        else:
            datasets[name] = ds.dataset(TABLES[name].empty_table())
    return datasets


@contextlib.contextmanager
def time_limit(con: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Interrupt what `con` does after so many seconds. Raises UserError if it was interrupted."""
    timer = threading.Timer(seconds, con.interrupt)
    timer.start()
    try:
        yield
    except duckdb.InterruptException:
        raise UserError(
            f"the query was stopped after {seconds:g} s; give it more with --timeout, or ask for less"
        ) from None
    finally:
        timer.cancel()


def query(con: duckdb.DuckDBPyConnection, text: str, seconds: float) -> pa.RecordBatchReader:
    """The answer to one statement, as batches in the query's order. Raises UserError if there is none."""
    try:
        _check_statement(con, text)
        with time_limit(con, seconds):
            relation = con.sql(text)
            # Read here, under the clock, not when the caller looks at it.
            answer = relation.to_arrow_table()
    except duckdb.OutOfMemoryException as error:
        first_line = str(error).splitlines()[0]
        raise UserError(
            f"the query needs more memory than it may have: {first_line}; give it more with --memory"
        ) from None
    except duckdb.Error as error:
        raise UserError(f"SQL: {error}") from None
    return answer.to_reader()


def _check_statement(con: duckdb.DuckDBPyConnection, text: str) -> None:
    """Raises UserError unless the text is one statement that reads.

    This is for a clear message only, since a COPY may hide inside a SELECT. What keeps a query in is that it
    has nothing to reach.
    """
    statements = con.extract_statements(text)
    if len(statements) != 1:
        raise UserError(f"one statement at a time, please: this is {len(statements)}")
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise UserError(
            f"{kind.name} is not for here: the tables can be read, not changed; "
            "write a SELECT, DESCRIBE or SUMMARIZE"
        )


@dataclass(frozen=True)
class ReadyQuery:
    """A query that ships: what it answers, and its file."""

    what: str
    path: Path


def ready() -> dict[str, ReadyQuery]:
    """The ready queries under pipelines/sql, by name."""
    queries: dict[str, ReadyQuery] = {}
    for path in files("sql", ".sql"):
        first_line = path.read_text().splitlines()[0]
        if first_line.startswith(_QUERY_MARK):
            queries[path.stem] = ReadyQuery(first_line.removeprefix(_QUERY_MARK).strip(), path)
    return queries
