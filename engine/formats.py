"""What a raw row means: a format's SQL turns JSON into a prompt and its responses, or into a reason why not.

- A format is a SELECT over `raw (n, file, line, row JSON, others)`. It gives one row for each n, with
  `messages` (role, content), `responses` (text, score), `problem` (null, or 'code: sentence') and perhaps
  `reference`, a right answer for the judge.
- `others` are the names of a row's columns that the format does not read and that could be its prompt.
- What the format reads, it says in a line of its SQL (engine/columns.py), so nothing is left out in silence.
- What is common to all formats is judged in engine/readings.py.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa

from engine.columns import Unread, columns_of, holds, without
from engine.raw import Row
from engine.readings import Reading, reading_of, refused
from engine.sql import ctrl_c
from engine.wording import add_functions
from schemas.errors import UserError
from schemas.extensions import files, included

_RAW = pa.schema(
    [
        ("n", pa.int64()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("row", pa.string()),
        ("others", pa.list_(pa.string())),
    ]
)
# The format's SQL, with its columns cast to the types that are expected of it.
_TYPED = """
select n::bigint as n, messages::struct(role varchar, content varchar)[] as messages, \
responses::struct(text varchar, score double)[] as responses,
       problem::varchar as problem, {reference} from ({sql}
)"""
# What DuckDB offers where a table is not there: tables of its own.
_OWN_TABLES = re.compile(r'\s*Did you mean "(?:sqlite_|duckdb_|pg_|raw_text)\w*"\?')
# How data sets spell their splits: a value begins with one of these.
_SPELLINGS = {"train": "train", "test": "test", "val": "test", "dev": "test", "eval": "test"}


@dataclass(frozen=True, slots=True)
class _Seen:
    """A row before the SQL has it: the text that the SQL is given, and what is known without it."""

    row: Row
    text: str
    unread: Unread
    split: str | None = None
    reason: str | None = None  # why the SQL need not be asked
    detail: str | None = None


class Format:
    """One format's SQL, ready to read rows.

    `ignore`: columns, or keys within them, that are taken for not there; `split_column`: the one that says
    which split a row belongs to, if any."""

    def __init__(self, path: Path, ignore: Sequence[str] = (), split_column: str = "split"):
        self.name = path.stem
        self.path = path
        self._sql = path.read_text().rstrip().removesuffix(";")
        self._typed = ""
        self._ignore = tuple(ignore)
        self._split_column = split_column
        self.columns = columns_of(self._sql, [split_column] if split_column else [])
        self._con = duckdb.connect(":memory:", config={"threads": 1})
        add_functions(self._con)
        self._con.execute(included("sql", "macros", ".sql").read_text())

    def read(self, rows: Sequence[Row]) -> list[Reading]:
        """A reading for each row, in order. Raises UserError if the SQL fails or gives an n several times."""
        seen_rows = [self._see(row) for row in rows]
        asked = [seen for seen in seen_rows if seen.reason is None]
        answers = iter(self._query(asked))
        readings: list[Reading] = []
        for seen in seen_rows:
            if seen.reason is None:
                readings.append(reading_of(seen.row, next(answers), seen.unread, seen.split))
            else:
                readings.append(refused(seen.row, seen.reason, seen.detail, seen.unread))
        return readings

    def _see(self, row: Row) -> _Seen:
        """What is known of a row without the SQL: what it has that is not read, and its split."""
        if row.reason and not self._costs_nothing(row):
            return _Seen(row, row.text, Unread(), reason=row.reason, detail=row.detail)
        text = row.text
        values = json.loads(text) if row.reason else orjson.loads(text)
        if self._ignore or row.reason:
            kept = without(values, self._ignore)
            text = json.dumps(without(kept, row.not_finite), ensure_ascii=False)
            values = kept
        unread = self.columns.unread(values) if self.columns else Unread()
        value = values.get(self._split_column)
        if not holds(value):
            return _Seen(row, text, unread)
        split = _split_of(value)
        if split is None:
            detail = (
                f"{self._split_column} is {str(value)[:80]!r}; expected train, test, validation, dev or "
                'eval; where it is no split: prompts.split_column = ""'
            )
            return _Seen(row, text, unread, reason="bad_split", detail=detail)
        return _Seen(row, text, unread, split)

    def _costs_nothing(self, row: Row) -> bool:
        """Whether a row was refused for nothing but NaN or Infinity in columns that are not read."""
        if not (self.columns and row.not_finite):
            return False
        values = json.loads(row.text)
        for name in row.not_finite:
            is_read = self.columns.keys_read(name, values[name]) is not None
            if is_read and name not in (*self._ignore, self._split_column):
                return False
        return True

    def _query(self, rows: Sequence[_Seen]) -> list[dict[str, Any]]:
        """The SQL's answer for each row, in order."""
        if not rows:
            return []
        self._register(rows)
        try:
            with ctrl_c():
                answers = self._con.sql(self._typed_sql()).to_arrow_table().to_pylist()
        except duckdb.ConversionException as error:
            if len(rows) == 1:
                return [{"problem": f"format: {str(error).splitlines()[0]}"}]
            # One row that the SQL cannot convert must not take the others with it.
            half = len(rows) // 2
            return self._query(rows[:half]) + self._query(rows[half:])
        except duckdb.Error as error:
            said = _OWN_TABLES.sub("", str(error))
            raise UserError(
                f"{self.path}: the format's SQL fails; "
                f"it must give n, messages, responses and problem, from the table raw: {said}"
            ) from None
        return self._in_order(answers, len(rows))

    def _typed_sql(self) -> str:
        """The format's SQL with typed columns; `reference` is null where it gives none."""
        if not self._typed:
            given = self._con.sql(f"from ({self._sql}\n)").columns
            reference = "reference::varchar as reference" if "reference" in given else "null as reference"
            self._typed = _TYPED.format(sql=self._sql, reference=reference)
        return self._typed

    def _register(self, rows: Sequence[_Seen]) -> None:
        """Make the rows the view `raw` that the SQL reads."""
        records: list[dict[str, object]] = []
        for n, seen in enumerate(rows):
            row = seen.row
            others = seen.unread.prompts
            records.append({"n": n, "file": row.file, "line": row.line, "row": seen.text, "others": others})
        self._con.register("raw_text", pa.Table.from_pylist(records, schema=_RAW))
        self._con.execute(
            "create or replace temp view raw as select n, file, line, row::json as row, others from raw_text"
        )

    def _in_order(self, answers: list[dict[str, Any]], row_count: int) -> list[dict[str, Any]]:
        """The answers by n from 0; a row that the SQL has dropped has a problem as its answer."""
        answer_of_n: dict[int, dict[str, Any]] = {}
        for answer in answers:
            answer_of_n[answer["n"]] = answer
        if len(answer_of_n) != len(answers):
            raise UserError(
                f"{self.path}: a format gives one row for each n; this one gives some n several times"
            )
        dropped = {"problem": "format: the format's SQL gave no row for this one"}
        in_order: list[dict[str, Any]] = []
        for n in range(row_count):
            in_order.append(answer_of_n.get(n, dropped))
        return in_order


def _split_of(value: object) -> str | None:
    """train or test, from a data set's own spelling; None for anything else."""
    spelled = value.strip().lower() if isinstance(value, str) else ""
    for beginning, split in _SPELLINGS.items():
        if spelled.startswith(beginning):
            return split
    return None


def shipped() -> list[Path]:
    """The formats under pipelines/sql: the files that begin with `-- format:`."""
    paths: list[Path] = []
    for path in files("sql", ".sql"):
        if path.read_text().startswith("-- format:"):
            paths.append(path)
    return paths
