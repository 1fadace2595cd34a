"""SQL over tables, closed in: it reads what it is given and reaches nothing else.

DuckDB never sees a file: pyarrow reads the shards that markers name, after their digests were checked, and DuckDB queries the Arrow data.
So access to files, the network and extensions can be switched off altogether, in the order that held (a query that writes, `COPY`, `ATTACH`,
`INSTALL`, even inside EXPLAIN, has nothing it could open). Time and memory are bounded; `engine sql` caps its process besides.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from schemas.errors import UserError
from schemas.manifest import read_markers, read_plan, verify
from schemas.recipe import included
from schemas.tables import TABLES

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
    """A connection that sees these tables and nothing else."""
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
    """A stage's query over its shard's tables; it reads a setting by getvariable('name')."""
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
    """Ctrl-C in the middle of a query comes out of DuckDB as an error of its own: here it is Ctrl-C again."""
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        if (
            isinstance(error, duckdb.InterruptException)
            or "interrupted" in str(error).lower()
            or "KeyboardInterrupt" in str(error)
        ):
            raise KeyboardInterrupt from None
        raise


def views(run: Path) -> dict[str, ds.Dataset]:
    """Every table of a run, over what is finished at this moment; a table without rows is there with its columns."""
    planned, _ = read_plan(run)
    paths: dict[str, list[str]] = {name: [] for name in TABLES}
    for stage in planned:
        folder = run / stage.folder
        for marker in read_markers(folder):
            for file in marker.files:
                paths[file.table].append(str(verify(folder, file)))
    read = ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )
    return {
        name: ds.dataset(files, schema=TABLES[name], format=read)
        if files
        else ds.dataset(TABLES[name].empty_table())
        for name, files in paths.items()
    }


@contextlib.contextmanager
def time_limit(con: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
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
    """The answer to one statement, as batches in the query's order; raises UserError naming what is wrong with it."""
    try:
        statements = con.extract_statements(text)
        if len(statements) != 1:
            raise UserError(f"one statement at a time, please: this is {len(statements)}")
        # For a clear message only: what keeps a query in is that it has nothing to reach (a COPY may hide inside a SELECT).
        if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
            raise UserError(
                f"{statements[0].type.name} is not for here: the tables can be read, not changed; write a SELECT, DESCRIBE or SUMMARIZE"
            )
        with time_limit(con, seconds):
            relation = con.sql(text)
            # Read here, under the clock, not when the caller looks at it.
            rows = relation.to_arrow_table()
    except duckdb.OutOfMemoryException as error:
        raise UserError(
            f"the query needs more memory than it may have: {str(error).splitlines()[0]}; give it more with --memory"
        ) from None
    except duckdb.Error as error:
        raise UserError(f"SQL: {error}") from None
    return rows.to_reader()


def ready() -> dict[str, tuple[str, Path]]:
    """The ready queries under pipelines/sql: name -> what it answers, and its file."""
    folder = included("sql", "macros", ".sql").parent
    found = {}
    for path in sorted(folder.glob("*.sql")):
        first = path.read_text().splitlines()[0]
        if first.startswith("-- query:"):
            found[path.stem] = (first.removeprefix("-- query:").strip(), path)
    return found
