"""What a raw row means: a format's SQL turns JSON into a prompt and its responses, or into a reason why not.

- A format is a SELECT over `raw (n, file, line, row JSON, others)`. It gives one row for each n, with
  `messages` (role, content), `responses` (text, score), `problem` (null, or 'code: sentence') and perhaps
  `reference`, a right answer for the judge, and `prompt_is_guessed`, true where no column is the prompt.
- A message may have `turn`, the JSON of a turn that is more than role and content; so may a response. A
  response may have `rating`, the data's own number beside a preference, and `comparison`, a number: responses
  of one row that have different numbers are not compared with each other. `tools` is the JSON of the tools.
- `others` are the names of a row's columns that the format does not read and that could be its prompt.
- Before the SQL a row is put under the names that formats read, where its own are others (engine/mapping.py).
- What the format reads, it says in a line of its SQL (engine/columns.py), so nothing is left out in silence.
- What is common to all formats is judged in engine/readings.py.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa

from engine import side_ratings
from engine.column_names import holds, is_finite
from engine.columns import Unread, columns_of, without
from engine.mapping import Mapped, RowMapping
from engine.raw import Row
from engine.readings import Reading, reading_of, refused
from engine.row_problem import RowProblem
from engine.row_values import DEEPEST, finite_text, is_too_deep, name_twice, needed_numbers
from engine.sql import ctrl_c
from engine.wording import add_functions
from schemas.errors import UserError
from schemas.extensions import files, included
from schemas.sections import Prompts

_RAW = pa.schema(
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
# How data sets spell their splits: a whole word that a value begins with, as in test_prefs and train-0.
_SPLIT = re.compile(r"(?:(train(?:ing)?)|test(?:ing)?|val(?:id|idation)?|dev|eval(?:uation)?)(?![^\W\d_])")


@dataclass(frozen=True, slots=True)
class _Seen:
    """A row before the SQL has it: the text that the SQL is given, and what is known without it."""

    row: Row
    text: str
    unread: Unread
    split: str | None = None
    reason: str | None = None  # why the SQL need not be asked
    detail: str | None = None
    metadata: str | None = None


class Format:
    """One format's SQL, ready to read rows.

    `ignore`: columns, or keys within them, that are taken for not there; `split_column`: the one that says
    which split a row belongs to, if any; `mapping`: the names that the input has for what is read."""

    def __init__(
        self,
        path: Path,
        ignore: Sequence[str] = (),
        split_column: str = "split",
        mapping: RowMapping | None = None,
    ):
        self.name = path.stem
        self.path = path
        self._sql = path.read_text().rstrip().removesuffix(";")
        self._is_prepared = False
        self._ignore = tuple(ignore)
        self._split_column = split_column
        self._mapping = mapping or RowMapping()
        self.columns = columns_of(self._sql, [split_column] if split_column else [])
        self._con = duckdb.connect(":memory:", config={"threads": 1})
        add_functions(self._con, self._mapping.columns)
        side_ratings.add_functions(self._con)
        self._con.execute(included("sql", "macros", ".sql").read_text())
        self._con.execute(_RAW_TABLE)

    @classmethod
    def of(cls, path: Path, config: Prompts) -> "Format":
        """A format that reads rows as a recipe says."""
        return cls(path, config.ignore, config.split_column, RowMapping.of(config))

    def read(self, rows: Sequence[Row]) -> list[Reading]:
        """A reading for each row, in order. Raises UserError if the SQL fails or gives an n several times."""
        seen_rows = [self._see(row) for row in rows]
        asked = [seen for seen in seen_rows if seen.reason is None]
        answers = iter(self._query(asked))
        readings: list[Reading] = []
        for seen in seen_rows:
            if seen.reason is None:
                reading = reading_of(seen.row, next(answers), seen.unread, seen.split)
                if seen.metadata is not None:
                    reading = dataclasses.replace(reading, metadata=seen.metadata)
                readings.append(reading)
            else:
                readings.append(refused(seen.row, seen.reason, seen.detail, seen.unread))
        return readings

    def _see(self, row: Row) -> _Seen:
        """What is known of a row without the SQL: what it has that is not read, and its split."""
        if row.reason and not row.not_finite:
            return _Seen(row, row.text, Unread(), reason=row.reason, detail=row.detail)
        if is_too_deep(row.text):
            detail = f"lists or objects lie in each other more than {DEEPEST} deep"
            return _Seen(row, row.text, Unread(), reason="too_deep", detail=detail)
        # orjson has no whole numbers beyond 64 bits, and an id is kept as it is.
        is_exact = bool(row.reason or self._mapping.metadata)
        values = json.loads(row.text) if is_exact else orjson.loads(row.text)
        twice = name_twice(row.text, values)
        if twice is not None:
            detail = f'"{twice}" stands twice in one object, and nobody can say which one counts'
            return _Seen(row, row.text, Unread(), reason="duplicate_key", detail=detail)
        try:
            mapped = self._mapping.applied(values, self._ignore, self.columns)
        except RowProblem as problem:
            return _Seen(row, row.text, Unread(), reason=problem.code, detail=problem.sentence)
        text = row.text
        if row.reason:
            finite = self._finite_text(mapped.values)
            if finite is None:
                where = self._not_finite_detail(row, mapped.values)
                return _Seen(row, row.text, Unread(), reason=row.reason, detail=where)
            text = finite
        elif mapped.values is not values:
            text = json.dumps(mapped.values, ensure_ascii=False)
        return self._with_split(row, text, mapped)

    def _with_split(self, row: Row, text: str, mapped: Mapped) -> _Seen:
        """A row that the SQL is asked about, unless its split is none."""
        unread = mapped.unread(self.columns) if self.columns else Unread()
        value = mapped.values.get(self._split_column)
        if not holds(value) or not is_finite(value):
            return _Seen(row, text, unread, metadata=mapped.metadata)
        split = _split_of(value)
        if split is None:
            detail = (
                f"{self._split_column} is {str(value)[:80]!r}; expected train, test, validation, dev or "
                'eval; where it is no split: prompts.split_column = ""'
            )
            return _Seen(row, text, unread, reason="bad_split", detail=detail)
        return _Seen(row, text, unread, split, metadata=mapped.metadata)

    def _finite_text(self, values: dict[str, Any]) -> str | None:
        """A row with NaN or Infinity as the SQL may have it, with null for these; None where it may not.

        What of it is not read does no harm, whatever it is."""
        if self.columns is None or self._needed(values):
            return None
        unread: list[str] = []
        for name in _not_finite(values):
            if self.columns.keys_read(name, values.get(name)) is None:
                unread.append(name)
        return finite_text(without(values, unread))

    def _needed(self, values: dict[str, Any]) -> list[str]:
        """Where a row has NaN or Infinity in what the format needs."""
        assert self.columns is not None
        return needed_numbers(values, _not_finite(values), self.columns, [self._split_column])

    def _not_finite_detail(self, row: Row, values: dict[str, Any]) -> str | None:
        """Why a row with NaN or Infinity is refused, by the columns that have it."""
        needed = self._needed(values) if self.columns else list(row.not_finite)
        if not needed:
            return row.detail
        verb = "is" if len(needed) == 1 else "are"
        return f"{', '.join(needed)} {verb} NaN or infinite, which is no number"

    def _query(self, rows: Sequence[_Seen]) -> list[dict[str, Any]]:
        """The SQL's answer for each row, in order."""
        if not rows:
            return []
        self._register(rows)
        try:
            with ctrl_c():
                self._prepare()
                answers = self._con.sql("execute read_rows").to_arrow_table().to_pylist()
        except (duckdb.ConversionException, duckdb.InvalidInputException) as error:
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

    def _prepare(self) -> None:
        """Plan the format's SQL with typed columns, once; those of _MORE that it does not give are null.

        To plan it costs as much as to read a hundred rows."""
        if self._is_prepared:
            return
        given = self._con.sql(f"from ({self._sql}\n)").columns
        more: list[str] = []
        for name, type_name in _MORE.items():
            value = f"{name}::{type_name}" if name in given else "null"
            more.append(f"{value} as {name}")
        self._con.execute(f"prepare read_rows as {_TYPED.format(sql=self._sql, more=', '.join(more))}")
        self._is_prepared = True

    def _register(self, rows: Sequence[_Seen]) -> None:
        """Make the rows those of `raw`, which the SQL reads."""
        records: list[dict[str, object]] = []
        for n, seen in enumerate(rows):
            row = seen.row
            others = seen.unread.prompts
            records.append({"n": n, "file": row.file, "line": row.line, "row": seen.text, "others": others})
        batch = pa.Table.from_pylist(records, schema=_RAW)
        self._con.execute("delete from raw_text")
        # A view of the rows would have the SQL planned anew.
        self._con.from_arrow(batch).insert_into("raw_text")

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


def _not_finite(values: dict[str, Any]) -> list[str]:
    """The columns that hold NaN or an infinite number."""
    return [name for name, value in values.items() if not is_finite(value)]


def _split_of(value: object) -> str | None:
    """train or test, from a data set's own spelling; None for anything else."""
    found = _SPLIT.match(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        return None
    return "train" if found[1] else "test"


def shipped() -> list[Path]:
    """The formats under pipelines/sql: the files that begin with `-- format:`."""
    paths: list[Path] = []
    for path in files("sql", ".sql"):
        if path.read_text().startswith("-- format:"):
            paths.append(path)
    return paths
