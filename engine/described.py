"""What the tables of a run are, for people: their columns with comments, and views that are easy to read.

`describe TABLE` is answered with the comments that travel in the files (schemas/tables.py).
"""

import re
from collections.abc import Mapping

from engine import metrics_table
from schemas.tables import TABLES

# View -> the table that it is made of, and its query.
VIEWS: Mapping[str, tuple[str, str]] = {
    "pairs_text": (
        "pairs",
        """
        select prompt, chosen, rejected, chosen_score, rejected_score,
               prompt_length, chosen_length, rejected_length,
               ref_chosen_logps / chosen_length as ref_chosen_logp_per_token,
               ref_rejected_logps / rejected_length as ref_rejected_logp_per_token,
               split, source
        from pairs
        """,
    ),
}
_OF_VIEWS = {
    "ref_chosen_logp_per_token": "ref_chosen_logps over chosen_length, nat",
    "ref_rejected_logp_per_token": "ref_rejected_logps over rejected_length, nat",
}
WHAT: Mapping[str, str] = {
    "pairs_text": "the pairs to read: texts, scores, lengths, log-probs a token; no ids",
    "pairs": "chosen and rejected of each pair, with all that training reads",
    "prompts": "what was asked",
    "responses": "what was answered: given, generated or rewritten",
    "scores": "a row for each response and scorer",
    "logprobs": "the reference's log-prob of each token of a response",
    metrics_table.NAME: "what trainings measured: run, step, name, value",
    "rejects": "rows that were refused, with the reason, file and line",
}
_SCHEMAS = {**TABLES, metrics_table.NAME: metrics_table.SCHEMA}
_MARK = "-- describes "
_DESCRIBE = re.compile(r"\s*desc(?:ribe)?\s+\"?(\w+)\"?\s*;?\s*", re.IGNORECASE)


def names() -> list[str]:
    """The tables and views that may be asked for, those to read first."""
    return list(WHAT)


def columns_of(name: str) -> dict[str, str]:
    """The comments of a table's or a view's columns."""
    table = VIEWS[name][0] if name in VIEWS else name
    schema = _SCHEMAS[table]
    comments = {field.name: (field.metadata or {}).get(b"comment", b"").decode() for field in schema}
    return comments | _OF_VIEWS if name in VIEWS else comments


def as_query(text: str) -> str | None:
    """For `describe TABLE` the query that also gives the comments; None for any other text."""
    found = _DESCRIBE.fullmatch(text)
    if found is None or found[1].lower() not in WHAT:
        return None
    name = found[1].lower()
    rows: list[str] = []
    for column, comment in columns_of(name).items():
        rows.append(f"({_quoted(column)}, {_quoted(comment)})")
    # In the order of the table, which `describe` keeps.
    return f"""{_MARK}{name}
        with described as (select *, row_number() over () as place from (describe {name})),
             comments(column_name, comment) as (values {", ".join(rows)})
        select column_name, column_type, coalesce(comment, '') as comment
        from described left join comments using (column_name)
        order by place
    """


def read_by(query: str) -> set[str]:
    """The tables that a query of `as_query` reads, which DuckDB does not tell; none for any other."""
    first_line = query.partition("\n")[0]
    return tables_of({first_line.removeprefix(_MARK)}) if first_line.startswith(_MARK) else set()


def tables_of(found: set[str]) -> set[str]:
    """The tables behind the names in a statement."""
    return {VIEWS[name][0] if name in VIEWS else name for name in found} & _SCHEMAS.keys()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
