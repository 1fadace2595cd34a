"""The ready queries that ship, by name: SQL files to run, to read and to copy."""

from dataclasses import dataclass
from pathlib import Path

from schemas.extensions import files

_QUERY_MARK = "-- query:"


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


def text_of(query: str) -> str:
    """The SQL of a ready query by its name, and of `describe` with comments; any other text is SQL itself."""
    found = ready().get(query.strip())
    if found:
        return found.path.read_text()
    from engine import described  # which knows the tables by pyarrow

    return described.as_query(query) or query
