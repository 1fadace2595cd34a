"""A format's SQL over rows: prepared once, then asked about batches; a row that it fails on is a row refused.

- SQL that cannot be planned, or that fails where it has no row at all, is the format's own mistake, and a
  UserError.
- Any other error comes from a row: a number out of range, a path made of a key, memory for what it asks for,
  an exception of a function in Python. The batch is halved until that row is alone, so that no other is lost
  with it. What Ctrl-C stops, and an assertion of ours, goes on as what it is.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from engine import side_ratings
from engine.row_problem import of_error
from engine.sql import ctrl_c
from engine.wording import add_functions
from schemas.errors import UserError
from schemas.extensions import included

RAW = pa.schema(
    [
        ("n", pa.int64()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("row", pa.string()),
        ("others", pa.list_(pa.string())),
    ]
)
_RAW_TABLE = """
create temp table raw_text (n bigint, file varchar, line bigint, row varchar, others varchar[]);
create temp view raw as select n, file, line, row::json as row, others from raw_text
"""
# The format's SQL, with its columns cast to the types that are expected of it.
_TYPED = """
select n::bigint as n,
       messages::struct(role varchar, content varchar, turn varchar)[] as messages,
       responses::struct(text varchar, score double, rating double, comparison bigint, turn varchar)[]
           as responses,
       problem::varchar as problem,
       {more}
from ({sql}
)"""
# What DuckDB offers where a table is not there: tables of its own.
_OWN_TABLES = re.compile(r'\s*Did you mean "(?:sqlite_|duckdb_|pg_|raw_text)\w*"\?')
# The columns that a format may give beside these, and their types.
_MORE = {"reference": "varchar", "prompt_is_guessed": "boolean", "tools": "varchar"}
# How DuckDB passes on that an assertion failed in one of our functions.
_OUR_MISTAKE = "Invalid Input Error: Python exception occurred while executing the UDF: AssertionError"
Answer = dict[str, Any]
Record = Mapping[str, object]  # a row of RAW, less its n


class RowSql:
    """The SQL of a format's file. `columns`: what the input calls columns, by our names of them."""

    def __init__(self, path: Path, columns: Mapping[str, Any]):
        self._path = path
        self.text = path.read_text().rstrip().removesuffix(";")
        self._columns = columns
        self._is_prepared = False
        self._is_connected = False  # it takes longer than to read a thousand plain rows

    def answers(self, records: Sequence[Record]) -> list[Answer]:
        """The SQL's answer for each row, in order; `problem` where it fails on the row.

        Raises UserError if the SQL fails without any row, or gives an n several times."""
        if not records:
            return []
        self._prepare()
        try:
            answers = self._asked(records)
        except AssertionError:
            raise
        except Exception as error:  # DuckDB, Arrow and Python each fail on a row in their own ways
            if str(error).startswith(_OUR_MISTAKE):
                raise AssertionError(str(error)) from None
            if isinstance(error, duckdb.FatalException | duckdb.InternalException):
                self._connect()  # the one before answers nothing any more
            if len(records) == 1:
                return [{"problem": _problem(error)}]
            half = len(records) // 2
            return self.answers(records[:half]) + self.answers(records[half:])
        return self._in_order(answers, len(records))

    def _connect(self) -> None:
        self._is_prepared = False
        self._is_connected = True
        self._con = duckdb.connect(":memory:", config={"threads": 1})
        add_functions(self._con, self._columns)
        side_ratings.add_functions(self._con)
        with ctrl_c():
            self._con.execute(included("sql", "macros", ".sql").read_text())
            self._con.execute(_RAW_TABLE)

    def _asked(self, records: Sequence[Record]) -> list[Answer]:
        """The answers of a batch, in the SQL's order."""
        numbered = [{**record, "n": n} for n, record in enumerate(records)]
        batch = pa.Table.from_pylist(numbered, schema=RAW)
        with ctrl_c():
            self._con.execute("delete from raw_text")
            # A view of the rows would have the SQL planned anew.
            self._con.from_arrow(batch).insert_into("raw_text")
        return self._executed()

    def _executed(self) -> list[Answer]:
        with ctrl_c():
            answers: list[Answer] = self._con.sql("execute read_rows").to_arrow_table().to_pylist()
        return answers

    def _prepare(self) -> None:
        """Plan the format's SQL with typed columns, once; those of _MORE that it does not give are null.

        To plan it costs as much as to read a hundred rows."""
        if self._is_prepared:
            return
        if not self._is_connected:
            self._connect()
        try:
            with ctrl_c():
                given = self._con.sql(f"from ({self.text}\n)").columns
            more: list[str] = []
            for name, type_name in _MORE.items():
                value = f"{name}::{type_name}" if name in given else "null"
                more.append(f"{value} as {name}")
            typed = _TYPED.format(sql=self.text, more=", ".join(more))
            with ctrl_c():
                self._con.execute(f"prepare read_rows as {typed}")
                self._con.execute("delete from raw_text")
            self._executed()
        except duckdb.Error as error:
            said = _OWN_TABLES.sub("", str(error))
            raise UserError(
                f"{self._path}: the format's SQL fails; "
                f"it must give n, messages, responses and problem, from the table raw: {said}"
            ) from None
        self._is_prepared = True

    def _in_order(self, answers: list[Answer], row_count: int) -> list[Answer]:
        """The answers by n from 0; a row that the SQL has dropped has a problem as its answer."""
        answer_of_n: dict[int, Answer] = {}
        for answer in answers:
            answer_of_n[answer["n"]] = answer
        if len(answer_of_n) != len(answers):
            raise UserError(
                f"{self._path}: a format gives one row for each n; this one gives some n several times"
            )
        dropped = {"problem": "format: the format's SQL gave no row for this one"}
        in_order: list[Answer] = []
        for n in range(row_count):
            in_order.append(answer_of_n.get(n, dropped))
        return in_order


def _problem(error: Exception) -> str:
    """'code: sentence' of the error that the SQL ends in."""
    if isinstance(error, duckdb.Error):
        return f"format: {str(error).splitlines()[0]}"
    return str(of_error(error, "format"))
