"""Rows that most files are made of, read without asking a format's SQL about each.

- A format may have a reader of its plain rows here: texts, or lists of {role, content}, and columns that only
  tell about the row. Such a row is read in a few microseconds; the SQL takes fifty.
- A reader gives what the SQL and all checks of engine/formats.py and engine/readings.py would give, or None.
  None is always right: the row then goes the careful way, which also gives every reason for a refusal.
- A reader belongs to one wording of the format's SQL and its macros, which it names by their digest. Where
  the SQL is another (a user's, or one that was changed since) there is no reader, and all rows go the
  careful way.
- tests/engine/test_plain.py compares both ways.
"""

from collections.abc import Mapping
from pathlib import Path

from engine.plain import hh, preference, prompts
from engine.plain.plain_row import PlainFormat
from schemas.digest import fingerprint
from schemas.extensions import included

READERS: Mapping[str, PlainFormat] = {
    "preference": preference.FORMAT,
    "prompts": prompts.FORMAT,
    "hh": hh.FORMAT,
}


def sql_digest(path: Path) -> str:
    """The digest of a format's SQL and of the macros that it is written with."""
    macros = included("sql", "macros", ".sql")
    return fingerprint([path.read_text(), macros.read_text()])


def reader_of(path: Path) -> PlainFormat | None:
    """The reader of a format's plain rows; None where there is none for this wording of its SQL."""
    reader = READERS.get(path.stem)
    if reader is None or reader.sql_digest != sql_digest(path):
        return None
    return reader
