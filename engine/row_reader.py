"""Rows of the input as rows of the scan: whole batches the fast way, what is not plain the careful way.

A row is plain where engine/plain can read it, which takes a few microseconds. All others of its batch are
read by the format's SQL and its checks (engine/formats.py). Both give the same rows, in the input's order.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from engine.column_names import holds, is_finite
from engine.formats import Format, split_of
from engine.inputs import Inputs
from engine.plain import reader_of
from engine.plain.beside import Beside
from engine.plain.plain_row import PlainFormat
from engine.raw import Row
from engine.raw_batches import RawBatch, Values
from engine.readings import Reading
from engine.scanned_rows import SCANNED, PlainRows, table_of
from schemas.sections import Prompts

_LETTERS_SHOWN = 80
_UNKNOWN_SPLIT = "unknown"
_ROWS_AT_ONCE = 1024  # that the SQL is asked about


@dataclass(frozen=True)
class RowWork:
    """How the input is read: what a process needs to know. `path`: the format's SQL."""

    config: Prompts
    path: Path
    found: Inputs

    def reader(self) -> "RowReader":
        """A reader for a process."""
        return RowReader(self.config, self.path, self.found.split_of)


class RowReader:
    """Reads batches of rows as a recipe says.

    `split_of_file(file)`: train or test, where the file says so. `left_out` are the names of what was not
    read; `guessed` is the beginning of the first prompt that no column names, None where each has one."""

    def __init__(
        self, config: Prompts, path: Path, split_of_file: Callable[[str], str | None], plain: bool = True
    ) -> None:
        self.left_out: dict[str, None] = {}
        self.guessed: str | None = None
        self._format = Format.of(path, config)
        self._split_of_file = split_of_file
        self._plain = _Plain.of(config, self._format) if plain else None

    def table(self, batch: RawBatch) -> pa.Table:
        """The rows of `SCANNED` for a batch, in its order."""
        split_of_file = self._split_of_file(batch.file)
        if self._plain is None:
            places = list(range(len(batch.lines)))
            return self._careful(batch, places, split_of_file)[1]
        plain = PlainRows(batch.file, split_of_file)
        with _collector_paused():
            plain_places, other_places = self._plain.read(batch, plain)
        self.left_out.update(self._plain.left_out)
        rows = plain.table()
        if not other_places:
            return rows
        other_places, others = self._careful(batch, other_places, split_of_file)
        order = sorted(range(len(rows) + len(others)), key=(plain_places + other_places).__getitem__)
        return pa.concat_tables([rows, others]).take(pa.array(order, pa.int64()))

    def _careful(
        self, batch: RawBatch, places: list[int], split_of_file: str | None
    ) -> tuple[list[int], pa.Table]:
        """The rows at some places by the format's SQL, and those of the places that have a row."""
        tables = [SCANNED.empty_table()]
        kept: list[int] = []
        for begin in range(0, len(places), _ROWS_AT_ONCE):
            rows: list[Row] = []
            for place in places[begin : begin + _ROWS_AT_ONCE]:
                row = batch.row(place)
                if row is not None:
                    rows.append(row)
                    kept.append(place)
            readings = self._format.read(rows)
            self._note(readings)
            tables.append(table_of(readings, split_of_file))
        return kept, pa.concat_tables(tables)

    def _note(self, readings: Sequence[Reading]) -> None:
        """Remember what the user is told of readings at the end."""
        for reading in readings:
            self.left_out.update(dict.fromkeys(reading.unread.left_out))
            if reading.prompt_is_guessed and self.guessed is None:
                self.guessed = reading.messages[-1]["content"][:_LETTERS_SHOWN]


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Python's search for circles of objects would go through a batch's rows, which have none, many times."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Plain:
    """Reads the plain rows of one format, as a recipe says."""

    def __init__(self, plain: PlainFormat, beside: Beside, split_column: str) -> None:
        self._read_values = plain.read
        self._beside = beside
        self._split_column = split_column

    @classmethod
    def of(cls, config: Prompts, form: Format) -> "_Plain | None":
        """None where the format has no reader of plain rows, or the recipe gives its columns other names."""
        plain = reader_of(form.path)
        if plain is None or form.columns is None:
            return None
        if config.columns or config.turns or config.roles or config.metadata:
            return None
        if any("." in name for name in config.ignore):
            return None
        return cls(
            plain, Beside(plain, form.columns, config.ignore, config.split_column), config.split_column
        )

    @property
    def left_out(self) -> dict[str, None]:
        return self._beside.left_out

    def read(self, batch: RawBatch, rows: PlainRows) -> tuple[list[int], list[int]]:
        """Add the plain rows of a batch to `rows`; their places, and those of all others."""
        places: list[int] = []
        others: list[int] = []
        lines = batch.lines
        extras_of = self._beside.extras
        read_values = self._read_values
        says_once = batch.says_once
        for place, values in enumerate(batch.values()):
            extras = None if values is None else extras_of(values)
            row = None if values is None or extras is None else read_values(values)
            if values is None or row is None or not says_once(place, values):
                others.append(place)
                continue
            split = self._split_of(values) if extras else None
            if split is _UNKNOWN_SPLIT:
                others.append(place)
                continue
            places.append(place)
            self._beside.note(values, extras or ())
            rows.add(lines[place], row, split)
        return places, others

    def _split_of(self, values: Values) -> str | None:
        """train or test, where a row says so; `_UNKNOWN_SPLIT` where it says something else."""
        value = values.get(self._split_column)
        if value is None or not holds(value) or not is_finite(value):
            return None
        return split_of(value) or _UNKNOWN_SPLIT
