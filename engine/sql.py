"""SQL over tables, closed in: it reads what it is given and reaches nothing else.

- DuckDB never opens a file. pyarrow reads the shards that markers name, after their digests were checked, and
  DuckDB queries the Arrow data.
- So access to files, the network and extensions is switched off altogether, in the order that held when it
  was tried. A query that writes (`COPY`, `ATTACH`, `INSTALL`, even inside EXPLAIN) has nothing to open.
- Time and memory are bounded. What a user types runs in a process of its own besides, which can be ended
  (engine/query_process.py); what stages ask runs here.
"""

import contextlib
import re
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from engine.described import tables_of
from engine.query_limits import too_large, too_slow
from engine.ready import ready as ready
from schemas.errors import UserError
from schemas.signals import interruption, told_to_end

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_BATCH_ROWS = 100_000
_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
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


def closed(tables: "dict[str, pa.Table | ds.Dataset]", memory_mb: int = 4096) -> duckdb.DuckDBPyConnection:
    """A connection that sees these tables and nothing else. Its queries may hold `memory_mb` of memory."""
    con = duckdb.connect(":memory:")
    with ctrl_c():
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
        try:
            with ctrl_c():
                for name, value in (settings or {}).items():
                    con.execute(f"SET VARIABLE {name} = ?", [value])
                return con.sql(query).to_arrow_table()
        except duckdb.Error as error:
            raise UserError(f"{where}: its SQL fails: {_in_one_line(error)}") from None


@contextlib.contextmanager
def ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt for a signal during a query, which DuckDB turns into an error of its own.

    Its message is judged by its beginning, since what follows may be the text of a row."""
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        is_interrupt = told_to_end() or isinstance(error, duckdb.InterruptException)
        if is_interrupt or str(error).startswith(_INTERRUPTED):
            raise interruption() from None
        raise


def rows(con: duckdb.DuckDBPyConnection, query: str, *values: object) -> list[dict[str, Any]]:
    """The answer to a query of ours as rows. `values`: of its parameters, $1 and on."""
    with ctrl_c():
        found: list[dict[str, Any]] = con.sql(query, params=list(values)).to_arrow_table().to_pylist()
    return found


# What tells of all tables there are, whichever a query names.
_OF_ALL_TABLES = re.compile(r"\b(show|pragma|information_schema|duckdb_|sqlite_|pg_)", re.IGNORECASE)


def tables_named(text: str, memory_mb: int) -> list[str] | None:
    """The tables of a run that a statement reads; None where it may read any, or does not parse."""
    if _OF_ALL_TABLES.search(text):
        return None
    with contextlib.closing(closed({}, memory_mb)) as con:
        try:
            # In a database that has none of them: of those that are there, DuckDB gives what they stand for.
            found = {name.lower() for name in con.get_table_names(text)}
        except Exception:  # whatever is wrong with it, the answer to the query says
            return None
    return sorted(tables_of(found)) or None


@contextlib.contextmanager
def time_limit(con: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Interrupt what `con` does after so many seconds. Raises UserError if it was interrupted."""
    timer = threading.Timer(seconds, con.interrupt)
    timer.start()
    try:
        yield
    except duckdb.InterruptException:
        raise UserError(too_slow(seconds)) from None
    finally:
        timer.cancel()


def query(con: duckdb.DuckDBPyConnection, text: str, seconds: float) -> pa.RecordBatchReader:
    """The answer to one statement, as batches in the query's order. Raises UserError if there is none."""
    schema: pa.Schema | None = None
    found: list[pa.RecordBatch] = []
    with answered(con, text, seconds) as batches:
        # Read here, under the clock, not when the caller looks at it.
        schema = batches.schema
        found.extend(batches)
    return pa.RecordBatchReader.from_batches(schema, found)


@contextlib.contextmanager
def answered(con: duckdb.DuckDBPyConnection, text: str, seconds: float) -> Iterator[pa.RecordBatchReader]:
    """The answer to one statement while it is computed. Whatever fails meanwhile is a UserError.

    It is a transaction that reads, and is rolled back: no statement leaves anything behind for the next."""
    answer: pa.RecordBatchReader | None = None
    try:
        _check_statement(con, text)
        con.execute("BEGIN TRANSACTION READ ONLY")
        with time_limit(con, seconds):
            answer = con.sql(text).to_arrow_reader(_BATCH_ROWS)
            yield answer
    except UserError:
        raise
    except (duckdb.OutOfMemoryException, MemoryError) as error:
        raise UserError(too_large(_first_line(error))) from None
    except duckdb.Error as error:
        raise UserError(f"SQL: {_in_one_line(error)}") from None
    except Exception as error:
        # A query is foreign: what it brings DuckDB or Arrow to raise is not known beforehand.
        if "interrupted" in str(error).lower():
            raise UserError(too_slow(seconds)) from None
        if "bad_alloc" in str(error) or "malloc" in str(error):
            raise UserError(too_large(_first_line(error))) from None
        raise UserError(f"SQL: {type(error).__name__}: {_first_line(error)}") from None
    finally:
        if answer is not None:
            answer.close()  # of one that is not read to its end DuckDB would still be at work
        with contextlib.suppress(duckdb.Error):
            con.execute("ROLLBACK")


def _in_one_line(error: duckdb.Error) -> str:
    """What DuckDB says in one line; the place in the query, which it shows last, stays below it."""
    text, mark, place = str(error).rpartition("\n\nLINE ")
    head = text if mark else place
    line = " ".join(filter(None, map(str.strip, head.splitlines())))
    return line + mark + place if mark else line


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _check_statement(con: duckdb.DuckDBPyConnection, text: str) -> None:
    """Raises UserError unless the text is one statement that reads.

    This is for a clear message only, since a COPY may hide inside a SELECT. What keeps a query in is that it
    has nothing to reach.
    """
    statements = con.extract_statements(text)
    if not statements:
        raise UserError("there is no statement in this; write a SELECT, DESCRIBE or SUMMARIZE")
    if len(statements) != 1:
        raise UserError(f"one statement at a time, please: this is {len(statements)}")
    try:
        kind = statements[0].type
    except (
        ValueError
    ):  # a statement that DuckDB knows and its Python module does not, such as UPDATE EXTENSIONS
        kind = None
    if kind not in _READING:
        if kind == duckdb.StatementType.MULTI:
            # It looks for its columns by a statement of its own, and makes a type of them.
            raise UserError(
                "PIVOT without its columns is not for here: name them, as in PIVOT … ON split IN ('train', "
                "'test') USING …, or write it as a SELECT with GROUP BY"
            )
        name = kind.name if kind is not None else "this statement"
        raise UserError(
            f"{name} is not for here: the tables can be read, not changed; "
            "write a SELECT, DESCRIBE or SUMMARIZE"
        )
