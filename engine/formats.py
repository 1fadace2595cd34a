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

import orjson

from engine.column_names import holds, is_finite
from engine.columns import Unread, columns_of, without
from engine.mapping import Mapped, RowMapping
from engine.raw import Row
from engine.readings import Reading, reading_of, refused
from engine.row_problem import RowProblem, of_error
from engine.row_sql import RowSql
from engine.row_values import DEEPEST, finite_text, is_too_deep, name_twice, needed_numbers
from schemas.errors import UserError
from schemas.extensions import files
from schemas.sections import Prompts

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

    def record(self) -> dict[str, object]:
        """The row as the SQL is given it."""
        row = self.row
        return {"file": row.file, "line": row.line, "row": self.text, "others": self.unread.prompts}


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
        self._ignore = tuple(ignore)
        self._split_column = split_column
        self._mapping = mapping or RowMapping()
        self._sql = RowSql(path, self._mapping.columns)
        self.columns = columns_of(self._sql.text, [split_column] if split_column else [])

    @classmethod
    def of(cls, path: Path, config: Prompts) -> "Format":
        """A format that reads rows as a recipe says."""
        return cls(path, config.ignore, config.split_column, RowMapping.of(config))

    def read(self, rows: Sequence[Row]) -> list[Reading]:
        """A reading for each row, in order. Raises UserError if the SQL fails or gives an n several times.

        A row on which anything else fails, whatever it is, is refused by that error; but for assertions,
        which are our mistakes."""
        seen_rows = [self._see(row) for row in rows]
        asked = [seen.record() for seen in seen_rows if seen.reason is None]
        answers = iter(self._sql.answers(asked))
        readings: list[Reading] = []
        for seen in seen_rows:
            if seen.reason is None:
                readings.append(_reading_of(seen, next(answers)))
            else:
                readings.append(refused(seen.row, seen.reason, seen.detail, seen.unread))
        return readings

    def _see(self, row: Row) -> _Seen:
        """What `_look` says of a row, or the error that it ends in as the reason why not."""
        try:
            return self._look(row)
        except (AssertionError, UserError):
            raise
        except Exception as error:
            problem = of_error(error)
            return _Seen(row, row.text, Unread(), reason=problem.code, detail=problem.sentence)

    def _look(self, row: Row) -> _Seen:
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
        split = split_of(value)
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


def _reading_of(seen: _Seen, answer: dict[str, Any]) -> Reading:
    """The reading that the SQL's answer gives; or the error that the checks end in as its reason."""
    try:
        reading = reading_of(seen.row, answer, seen.unread, seen.split)
    except AssertionError:
        raise
    except Exception as error:
        problem = of_error(error)
        return refused(seen.row, problem.code, problem.sentence, seen.unread)
    if seen.metadata is not None:
        reading = dataclasses.replace(reading, metadata=seen.metadata)
    return reading


def _not_finite(values: dict[str, Any]) -> list[str]:
    """The columns that hold NaN or an infinite number."""
    return [name for name, value in values.items() if not is_finite(value)]


def split_of(value: object) -> str | None:
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
