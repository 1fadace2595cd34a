"""What a raw row means: a format's SQL turns JSON into a prompt and its responses, or into a reason why not.

- A format is a SELECT over `raw (n, file, line, row JSON)`. It gives one row for each n, with `messages`
  (role, content), `responses` (text, score) and `problem` (null, or 'code: sentence').
- What is common to all formats (empty texts, equal responses, roles) is judged here, once.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from engine.raw import Row
from engine.sql import ctrl_c
from schemas.errors import UserError
from schemas.extensions import files, included

_RAW = pa.schema(
    [
        ("n", pa.int64()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("row", pa.string()),
    ]
)
# The format's SQL, with its columns cast to the types that are expected of it.
_TYPED = """
select n::bigint as n, messages::struct(role varchar, content varchar)[] as messages, \
responses::struct(text varchar, score double)[] as responses,
       problem::varchar as problem from ({sql}
)"""
_ROLES = ("system", "user", "assistant", "tool")
ROWS_TO_RECOGNISE = 100
# A format is taken for the one of the input if it can read more than this share of the first rows.
_AUTO_SHARE = 0.5
_log = logging.getLogger("prefmill")


@dataclass(frozen=True, slots=True)
class Reading:
    """A row as a format reads it; or the reason why the format cannot, with a sentence in `detail`."""

    row: Row
    messages: list[dict[str, str]]
    responses: list[dict[str, Any]]  # text: str, score: float or None
    reason: str | None = None
    detail: str | None = None


class Format:
    """One format's SQL, ready to read rows."""

    def __init__(self, path: Path):
        self.name = path.stem
        self.path = path
        self.sql = _TYPED.format(sql=path.read_text().rstrip().removesuffix(";"))
        self._con = duckdb.connect(":memory:", config={"threads": 1})
        self._con.execute(included("sql", "macros", ".sql").read_text())

    def read(self, rows: Sequence[Row]) -> list[Reading]:
        """A reading for each row, in order. Raises UserError if the SQL fails or gives an n several times."""
        good_rows = [row for row in rows if row.reason is None]
        answers = iter(self._query(good_rows))
        readings: list[Reading] = []
        for row in rows:
            if row.reason is None:
                readings.append(_reading(row, next(answers)))
            else:
                readings.append(_refused(row, row.reason, row.detail))
        return readings

    def _query(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """The SQL's answer for each row, in order."""
        if not rows:
            return []
        self._register(rows)
        try:
            with ctrl_c():
                answers = self._con.sql(self.sql).to_arrow_table().to_pylist()
        except duckdb.ConversionException as error:
            if len(rows) == 1:
                return [{"problem": f"format: {str(error).splitlines()[0]}"}]
            # One row that the SQL cannot convert must not take the others with it.
            half = len(rows) // 2
            return self._query(rows[:half]) + self._query(rows[half:])
        except duckdb.Error as error:
            raise UserError(
                f"{self.path}: the format's SQL fails; "
                f"it must give n, messages, responses and problem: {error}"
            ) from None
        return self._in_order(answers, len(rows))

    def _register(self, rows: Sequence[Row]) -> None:
        """Make the rows the view `raw` that the SQL reads."""
        records: list[dict[str, object]] = []
        for n, row in enumerate(rows):
            records.append({"n": n, "file": row.file, "line": row.line, "row": row.text})
        self._con.register("raw_text", pa.Table.from_pylist(records, schema=_RAW))
        self._con.execute(
            "create or replace temp view raw as select n, file, line, row::json as row from raw_text"
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


def _refused(row: Row, reason: str, detail: str | None) -> Reading:
    return Reading(row, messages=[], responses=[], reason=reason, detail=detail)


def _reading(row: Row, answer: dict[str, Any]) -> Reading:
    """The reading that an answer of the SQL gives, after all checks of its prompt and its responses."""
    problem = answer["problem"]
    if problem:
        code, _, sentence = problem.partition(": ")
        return _refused(row, code, sentence or code)
    messages: list[dict[str, str]] = []
    for message in answer["messages"] or []:
        is_empty_system = message["content"] == "" and message["role"] == "system"
        if not is_empty_system:
            messages.append(message)
    responses = answer["responses"] or []
    refusal = _prompt_problem(messages) or _responses_problem(responses)
    if refusal:
        code, sentence = refusal
        return _refused(row, code, sentence)
    return Reading(row, messages, responses)


def _prompt_problem(messages: list[dict[str, str]]) -> tuple[str, str] | None:
    """Why these messages are no prompt: a code and a sentence."""
    if not messages:
        return "empty_prompt", "the row has no prompt"
    for message in messages:
        if message["role"] not in _ROLES:
            known = ", ".join(_ROLES)
            return "bad_role", f"a turn's role must be one of {known}, not {message['role']}"
        if message["content"] is None:
            return "missing_or_mistyped", "a turn's content must be a string"
    last = messages[-1]
    if last["role"] not in ("user", "tool"):
        return "last_turn", f"the prompt must end with the user's turn, not the {last['role']}'s"
    if not last["content"].strip():
        return "empty_prompt", "the last user message is empty"
    return None


def _responses_problem(responses: list[dict[str, Any]]) -> tuple[str, str] | None:
    """Why these responses cannot be used: a code and a sentence."""
    texts = [response["text"] for response in responses]
    if None in texts:
        return "missing_or_mistyped", "a response must be a string"
    for text in texts:
        if not text.strip():
            return "empty_response", "a response is empty"
    if len(texts) > 1 and len(set(texts)) == 1:
        return "same_responses", "chosen and rejected are the same text"
    return None


def shipped() -> list[Path]:
    """The formats under pipelines/sql: the files that begin with `-- format:`."""
    paths: list[Path] = []
    for path in files("sql", ".sql"):
        if path.read_text().startswith("-- format:"):
            paths.append(path)
    return paths


def recognise(rows: Sequence[Row]) -> Path:
    """The one format that can read the first rows. Raises UserError if none can, or several."""
    rows = rows[:ROWS_TO_RECOGNISE]
    if not rows:
        raise UserError("prompts.format = auto: the input has no rows to look at")
    rows_read: dict[Path, int] = {}
    able: list[Path] = []
    for path in shipped():
        readings = Format(path).read(rows)
        rows_read[path] = sum(reading.reason is None for reading in readings)
        if rows_read[path] > _AUTO_SHARE * len(rows):
            able.append(path)
    if len(able) != 1:
        raise _not_recognised(rows, rows_read, several=bool(able))
    (chosen,) = able
    _log.info(
        "prompts.format = auto: taken for %s, which reads %d of the first %d rows",
        chosen.stem,
        rows_read[chosen],
        len(rows),
    )
    return chosen


def _not_recognised(rows: Sequence[Row], rows_read: dict[Path, int], several: bool) -> UserError:
    """The error for rows that no format can read, or `several`; it shows how many each one reads."""
    who = "several formats" if several else "no format"
    counts = ", ".join(f"{path.stem} {count}" for path, count in rows_read.items())
    first = "none is a JSON object"
    for row in rows:
        if row.reason is None:
            first = row.text[:120]
            break
    return UserError(
        f"prompts.format = auto: {who} can read the first {len(rows)} rows (rows read: {counts}); "
        f"the first is {first}…; name the format, or copy the nearest pipelines/sql/*.sql and name your copy"
    )
