"""What a raw row means: the SQL of a format turns JSON into a prompt and its responses, and every row it cannot use into a reason.

A format is a SELECT over `raw (n, file, line, row JSON)` that gives, once for each n: `messages` (role, content), `responses` (text, score)
and `problem` (null, or 'code: sentence'). What is common to all formats (empty texts, equal responses, roles) is judged here, once.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from engine.raw import Row
from engine.sql import ctrl_c
from schemas.errors import UserError
from schemas.recipe import included

_RAW = pa.schema([("n", pa.int64()), ("file", pa.string()), ("line", pa.int64()), ("row", pa.string())])
_ANSWER = """
select n::bigint as n, messages::struct(role varchar, content varchar)[] as messages, responses::struct(text varchar, score double)[] as responses,
       problem::varchar as problem from ({sql}
)"""
_log = logging.getLogger("prefmill")
_ROLES = ("system", "user", "assistant", "tool")
_AUTO_ROWS = 100
# The share of the first rows that a format must be able to read to be taken for theirs.
_AUTO_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """A row as a format reads it, or why it cannot."""

    row: Row
    messages: list[dict[str, str]]
    responses: list[dict]
    reason: str | None = None
    detail: str | None = None


class Format:
    """One format's SQL, ready to read rows."""

    def __init__(self, path: Path):
        self.name, self.path, self.sql = (
            path.stem,
            path,
            _ANSWER.format(sql=path.read_text().rstrip().removesuffix(";")),
        )
        self._con = duckdb.connect(":memory:", config={"threads": 1})
        self._con.execute(included("sql", "macros", ".sql").read_text())

    def read(self, rows: Sequence[Row]) -> list[Reading]:
        """A reading for each row, in order."""
        good = [row for row in rows if row.reason is None]
        answers = iter(self._query(good))
        return [
            _refused(row, row.reason, row.detail) if row.reason else _judge(row, next(answers))
            for row in rows
        ]

    def _query(self, rows: Sequence[Row]) -> list[dict]:
        if not rows:
            return []
        columns = [
            range(len(rows)),
            [row.file for row in rows],
            [row.line for row in rows],
            [row.text for row in rows],
        ]
        self._con.register(
            "raw_text",
            pa.table(
                [pa.array(column, field.type) for column, field in zip(columns, _RAW, strict=True)],
                schema=_RAW,
            ),
        )
        self._con.execute(
            "create or replace temp view raw as select n, file, line, row::json as row from raw_text"
        )
        try:
            with ctrl_c():
                answers = self._con.sql(self.sql).to_arrow_table().to_pylist()
        except duckdb.ConversionException as error:
            # One row that the SQL cannot convert must not take the others with it.
            if len(rows) > 1:
                half = len(rows) // 2
                return self._query(rows[:half]) + self._query(rows[half:])
            return [{"problem": f"format: {str(error).splitlines()[0]}"}]
        except duckdb.Error as error:
            raise UserError(
                f"{self.path}: the format's SQL fails; it must give n, messages, responses and problem: {error}"
            ) from None
        return self._in_order(answers, len(rows))

    def _in_order(self, answers: list[dict], rows: int) -> list[dict]:
        by_n = {answer["n"]: answer for answer in answers}
        if len(by_n) != len(answers):
            raise UserError(
                f"{self.path}: a format gives one row for each n; this one gives some n several times"
            )
        return [
            by_n.get(n, {"problem": "format: the format's SQL gave no row for this one"}) for n in range(rows)
        ]


def _refused(row: Row, reason: str | None, detail: str | None) -> Reading:
    return Reading(row, [], [], reason, detail)


def _judge(row: Row, answer: dict) -> Reading:
    """The reading, once everything that a prompt and its responses must be has been checked."""
    if answer["problem"]:
        code, _, sentence = answer["problem"].partition(": ")
        return _refused(row, code, sentence or code)
    messages = [
        message
        for message in answer["messages"] or []
        if message["content"] != "" or message["role"] != "system"
    ]
    responses = answer["responses"] or []
    if not messages:
        return _refused(row, "empty_prompt", "the row has no prompt")
    for message in messages:
        if message["role"] not in _ROLES:
            return _refused(
                row, "bad_role", f"a turn's role must be one of {', '.join(_ROLES)}, not {message['role']}"
            )
        if message["content"] is None:
            return _refused(row, "missing_or_mistyped", "a turn's content must be a string")
    if messages[-1]["role"] not in ("user", "tool"):
        return _refused(
            row, "last_turn", f"the prompt must end with the user's turn, not the {messages[-1]['role']}'s"
        )
    if not messages[-1]["content"].strip():
        return _refused(row, "empty_prompt", "the last user message is empty")
    if any(response["text"] is None for response in responses):
        return _refused(row, "missing_or_mistyped", "a response must be a string")
    if any(not response["text"].strip() for response in responses):
        return _refused(row, "empty_response", "a response is empty")
    if len(responses) > 1 and len({response["text"] for response in responses}) == 1:
        return _refused(row, "same_responses", "chosen and rejected are the same text")
    return Reading(row, messages, responses)


def shipped() -> list[Path]:
    folder = included("sql", "macros", ".sql").parent
    return [path for path in sorted(folder.glob("*.sql")) if path.read_text().startswith("-- format:")]


def recognise(rows: Sequence[Row]) -> Path:
    """The one format that can read the first rows; raises UserError where none or several can."""
    rows = rows[:_AUTO_ROWS]
    if not rows:
        raise UserError("prompts.format = auto: the input has no rows to look at")
    read = {path: sum(reading.reason is None for reading in Format(path).read(rows)) for path in shipped()}
    able = [path for path, count in read.items() if count > _AUTO_SHARE * len(rows)]
    found = ", ".join(f"{path.stem} {count}" for path, count in read.items())
    if len(able) != 1:
        keys = next((row.text[:120] for row in rows if row.reason is None), "none is a JSON object")
        raise UserError(
            f"prompts.format = auto: {'several formats' if able else 'no format'} can read the first {len(rows)} rows (rows read: {found}); "
            f"the first is {keys}…; name the format, or copy the nearest pipelines/sql/*.sql and name your copy"
        )
    _log.info(
        "prompts.format = auto: taken for %s, which reads %d of the first %d rows",
        able[0].stem,
        read[able[0]],
        len(rows),
    )
    return able[0]
