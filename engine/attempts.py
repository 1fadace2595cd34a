"""How a format reads the first rows of the input: what `engine/recognise.py` judges by."""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import raw
from engine.formats import Format
from engine.raw import Row
from engine.readings import Reading, refused
from engine.row_looks import columns
from schemas.sections import Prompts

ROWS_TO_RECOGNISE = 100  # of each file, fewer where there are many
_FEWEST_ROWS = 5
_ROWS_OF_ALL = 5000
_ROWS_AT_ONCE = 1024
# By these reasons a format says that a row is of another one.
_OF_ANOTHER_FORMAT = frozenset({"has_responses", "hh_dialogue", "missing_or_mistyped", "no_dialogue"})


@dataclass(frozen=True)
class Attempt:
    """How a format reads some first rows."""

    path: Path
    readings: Sequence[Reading]

    @property
    def rows(self) -> list[Row]:
        """The rows that were read."""
        return [reading.row for reading in self.readings]

    @property
    def read(self) -> int:
        """How many rows it reads."""
        return sum(reading.reason is None for reading in self.readings)

    @property
    def of_its_form(self) -> int:
        """How many rows it reads, or would read but for columns that may not be left out."""
        return sum(reading.is_its_format for reading in self.readings)

    @property
    def of_its_columns(self) -> int:
        """How many rows are refused for something else than that their columns are of another format."""
        return sum(reading.reason not in _OF_ANOTHER_FORMAT for reading in self.readings)

    def unread(self) -> tuple[str, ...]:
        """The columns that may not be left out, of all rows, in the order in which they are met."""
        names: dict[str, None] = {}
        for reading in self.readings:
            names |= dict.fromkeys(reading.unread.refused)
        return tuple(names)

    def renames(self) -> dict[str, str]:
        """Columns that may be others that are read in another spelling, ours -> theirs."""
        names: dict[str, str] = {}
        for reading in self.readings:
            for ours, theirs in reading.unread.renames:
                names.setdefault(ours, theirs)
        return names

    def left_out(self) -> tuple[str, ...]:
        """The columns that are not read and left out."""
        names: dict[str, None] = {}
        for reading in self.readings:
            names |= dict.fromkeys(reading.unread.left_out)
        return tuple(names)

    def complaint(self) -> str:
        """The reason and sentence that most rows are refused by."""
        reasons = Counter(
            f"{reading.reason}: {reading.detail}" for reading in self.readings if reading.reason
        )
        return reasons.most_common(1)[0][0]

    def brings_responses(self, config: Prompts) -> bool:
        """Whether any row has responses, those included that have columns which may not be left out."""
        if any(reading.responses for reading in self.readings):
            return True
        if not self.unread():
            return False
        without = dataclasses.replace(config, ignore=(*config.ignore, *self.unread()))
        again = attempt(self.path, self.rows, without)
        return any(reading.responses for reading in again.readings)


def attempt(path: Path, rows: Sequence[Row], config: Prompts) -> Attempt:
    """How a format reads rows. One whose own columns no row has is not asked: planning its SQL takes time."""
    marks = _marks(path)
    names = {*columns(rows), *config.columns}
    if marks and not any(mark in names for mark in marks):
        detail = f"the rows have no column {' or '.join(marks)}: missing"
        return Attempt(path, [refused(row, "missing_or_mistyped", detail) for row in rows])
    reader = Format.of(path, config)
    return Attempt(path, reader.read(rows))


def _marks(path: Path) -> list[str]:
    """The columns without any of which rows are of another format, by its line `-- marked by:`."""
    line = re.search(r"^-- marked by:(.*)$", path.read_text(), re.MULTILINE)
    return line[1].replace(",", " ").split() if line else []


def attempts(path: Path, files: Mapping[str, Path], config: Prompts) -> Iterator[tuple[str, Attempt]]:
    """How a format reads the first rows of each file that has any; several files are asked about at once."""
    reader = Format.of(path, config)
    waiting: list[Row] = []
    for rows in first_rows(files, config):
        waiting += rows
        if len(waiting) >= _ROWS_AT_ONCE:
            yield from _by_file(path, reader.read(waiting))
            waiting = []
    yield from _by_file(path, reader.read(waiting))


def first_rows(files: Mapping[str, Path], config: Prompts) -> Iterator[list[Row]]:
    """The first rows of each file, fewer where there are many files."""
    of_each = min(ROWS_TO_RECOGNISE, max(_FEWEST_ROWS, _ROWS_OF_ALL // len(files)))
    for name, path in files.items():
        yield list(itertools.islice(raw.rows({name: path}, config.max_row_bytes), of_each))


def _by_file(path: Path, readings: Sequence[Reading]) -> Iterator[tuple[str, Attempt]]:
    for name, of_file in itertools.groupby(readings, lambda reading: reading.row.file):
        yield name, Attempt(path, list(of_file))
