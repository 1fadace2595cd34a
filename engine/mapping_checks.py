"""Whether the names that a recipe gives to its input are there, by the first rows, before any work.

A name that is not there would be a setting that silently does nothing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import orjson

from engine import raw
from engine.attempts import first_rows
from engine.columns import columns_of
from engine.raw import Row
from engine.row_looks import columns, columns_text
from engine.ways import way_to
from schemas.errors import UserError, did_you_mean
from schemas.row_checks import ALL_COLUMNS
from schemas.sections import Prompts


def check_columns(formats: Sequence[Path], files: Mapping[str, Path], config: Prompts) -> None:
    """Raise UserError where none of these formats reads a column of [prompts.columns], or no first row has
    what it is made of."""
    if not config.columns:
        return
    check_ours(formats, config)
    wanted: dict[str, str] = {}
    for ours, theirs in config.columns.items():
        for name in [theirs] if isinstance(theirs, str) else theirs:
            wanted.setdefault(name, ours)
    rows: list[Row] = []
    for of_file in first_rows(files, config):
        rows += of_file
    missing = _missing(wanted, rows)
    if missing and rows:
        raise UserError(_missing_sentence(f"[prompts.columns] {wanted[missing[0]]}", missing[0], rows))


def check_metadata(format_path: Path, files: Mapping[str, Path], config: Prompts) -> None:
    """Raise UserError where no row has a column of prompts.metadata.

    A column may be rare: where the first rows do not have it, all are looked through."""
    if not config.metadata:
        return
    if ALL_COLUMNS in config.metadata:
        if columns_of(format_path.read_text()) is None:
            raise UserError(
                f'prompts.metadata = ["*"] keeps what the format does not read, and {format_path} does not '
                "say what it reads; name the columns, or write a line `-- reads:` into it"
            )
        return
    rows: list[Row] = []
    for of_file in first_rows(files, config):
        rows += of_file
    missing = _missing(config.metadata, rows)
    if missing:
        missing = _missing(missing, raw.rows(dict(files), config.max_row_bytes))
    if missing and rows:
        raise UserError(_missing_sentence("prompts.metadata", missing[0], rows))


def check_ours(formats: Sequence[Path], config: Prompts) -> None:
    """Raise UserError where none of the formats reads a column that [prompts.columns] makes."""
    known = {config.split_column} - {""}
    for path in formats:
        reads = columns_of(path.read_text())
        if reads is None:
            return
        known |= {*reads.reads, *frozenset().union(*reads.instead.values())} - {"*"}
    for ours in config.columns:
        if ours not in known:
            who = f"the format {formats[0].stem} reads no column"
            if len(formats) > 1:
                who = "no format reads a column"
            raise UserError(
                f"[prompts.columns] {ours} = …: {who} {ours}; {did_you_mean(ours, known)} (on the left is "
                "the format's name of a column, on the right the input's)"
            )


def _missing(names: Iterable[str], rows: Iterable[Row]) -> list[str]:
    """Those of the names that none of the rows has; rows are read no further than until all are found."""
    missing = list(dict.fromkeys(names))
    for row in rows:
        if row.reason and not row.not_finite:
            continue
        values = json.loads(row.text) if row.reason else orjson.loads(row.text)
        missing = [name for name in missing if way_to(values, name) is None]
        if not missing:
            break
    return missing


def _missing_sentence(setting: str, name: str, rows: list[Row]) -> str:
    """Why a name is refused, with the columns that there are and the one that may be meant."""
    meant = did_you_mean(name, columns(rows))
    nearest = f"; {meant}" if meant.startswith("did you mean") else ""
    return f'{setting}: no row has "{name}": {columns_text(rows)}{nearest}'
