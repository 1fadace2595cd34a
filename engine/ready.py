"""The ready queries that ship, by name: SQL files to run, to read and to copy.

A file begins with what the query answers, and may name parameters with their usual values, which stand in it
as $NAME:

    -- query: the pairs that ...
    -- param: limit = 20
    select ... from pairs limit $limit
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import UserError, did_you_mean
from schemas.extensions import files

_QUERY_MARK = "-- query:"
_PARAM = re.compile(r"-- param: (\w+) = (.+)")
_PLACE = re.compile(r"\$(\w+)")


@dataclass(frozen=True)
class ReadyQuery:
    """A query that ships: what it answers, its file, and the usual value of each parameter."""

    what: str
    path: Path
    params: Mapping[str, str] = field(default_factory=dict)


def ready() -> dict[str, ReadyQuery]:
    """The ready queries under pipelines/sql, by name."""
    queries: dict[str, ReadyQuery] = {}
    for path in files("sql", ".sql"):
        first_line, *more = path.read_text().splitlines()
        if first_line.startswith(_QUERY_MARK):
            what = first_line.removeprefix(_QUERY_MARK).strip()
            queries[path.stem] = ReadyQuery(what, path, _params_in(more))
    return queries


def _params_in(lines: Sequence[str]) -> dict[str, str]:
    params: dict[str, str] = {}
    for line in lines:
        found = _PARAM.fullmatch(line)
        if found:
            params[found[1]] = found[2].strip()
    return params


def text_of(query: str, given: Mapping[str, str] | None = None) -> str:
    """The SQL of a ready query by its name, and of `describe` with comments; any other text is SQL itself.

    `given`: values of the ready query's parameters. Raises UserError for one that it has not, or that is no
    number where the usual value is one."""
    found = ready().get(query.strip())
    if found:
        return _filled(query.strip(), found, given or {})
    if given:
        raise UserError(
            f"{', '.join(given)}: only a ready query has parameters; `engine sql --list` shows them"
        )
    from engine import described  # which knows the tables by pyarrow

    return described.as_query(query) or query


def _filled(name: str, query: ReadyQuery, given: Mapping[str, str]) -> str:
    """The SQL of a ready query with its parameters as literals in their places."""
    for param in given:
        if param not in query.params:
            raise UserError(
                f"the ready query {name} has no parameter {param}: {did_you_mean(param, query.params)}"
            )
    literals: dict[str, str] = {}
    for param, usual in query.params.items():
        value = given.get(param, usual)
        literals[param] = value if _is_number(value) else "'" + value.replace("'", "''") + "'"
        if _is_number(usual) and not _is_number(value):
            raise UserError(f"{param} = {value}: expected a number, such as {usual}")
    return _PLACE.sub(lambda place: literals.get(place[1], place[0]), query.path.read_text())


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d{1,18}(\.\d{1,18})?", text) is not None
