"""Which format the input is in, and whether it is in any: the first rows of every file, before any work.

- A file that can never be rows (another encoding, an archive …) is refused whatever the format.
- So is a file none of whose rows the format reads, where its looks say why.
- `auto` takes the one format that reads the first rows, and every file's: more than half of them. Where a
  format would read them but for columns that may not be left out, the file is refused by their names.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import raw
from engine.formats import Format, shipped
from engine.looks import never_rows, not_rows
from engine.raw import Row
from engine.readings import UNREAD, Reading, unread_sentence
from engine.row_looks import columns, columns_text, kind_of
from schemas.errors import UserError
from schemas.extensions import included
from schemas.sections import Prompts

ROWS_TO_RECOGNISE = 100  # of each file, fewer where there are many
_FEWEST_ROWS = 5
_ROWS_OF_ALL = 5000
_ROWS_AT_ONCE = 1024
# A format is taken for the one of the input if it can read more than this share of the first rows.
_AUTO_SHARE = 0.5
# By these reasons a format says that a row is of another one.
_OF_ANOTHER_FORMAT = frozenset({"has_responses", "hh_dialogue", "missing_or_mistyped", "no_dialogue"})
_log = logging.getLogger("prefmill")


@dataclass(frozen=True)
class _Attempt:
    """How a format reads some first rows."""

    path: Path
    readings: Sequence[Reading]

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

    def complaint(self) -> str:
        """The reason and sentence that most rows are refused by."""
        reasons = Counter(
            f"{reading.reason}: {reading.detail}" for reading in self.readings if reading.reason
        )
        return reasons.most_common(1)[0][0]


def format_of(files: Mapping[str, Path], config: Prompts) -> Path:
    """The format's SQL file for the input. Raises UserError where it, or a file, cannot be read."""
    for name, path in files.items():
        look = never_rows(path)
        if look:
            raise UserError(f"prompts.source: {name} cannot be read: {look}")
    if config.format != "auto":
        path = included("sql", config.format, ".sql")
        _check_named(path, files, config)
        return path
    return _auto(files, config)


def recognise(rows: Sequence[Row]) -> Path:
    """The one format that can read the first rows. Raises UserError if none can, or several."""
    return _format_of_rows("the input", None, rows[:ROWS_TO_RECOGNISE], Prompts())


def _first_rows(files: Mapping[str, Path], config: Prompts) -> Iterator[list[Row]]:
    """The first rows of each file, fewer where there are many files."""
    of_each = min(ROWS_TO_RECOGNISE, max(_FEWEST_ROWS, _ROWS_OF_ALL // len(files)))
    for name, path in files.items():
        yield list(itertools.islice(raw.rows({name: path}, config.max_row_bytes), of_each))


def _attempt(path: Path, rows: Sequence[Row], config: Prompts) -> _Attempt:
    reader = Format(path, config.ignore, config.split_column)
    return _Attempt(path, reader.read(rows))


def _attempts(path: Path, files: Mapping[str, Path], config: Prompts) -> Iterator[tuple[str, _Attempt]]:
    """How a format reads the first rows of each file that has any; several files are asked about at once."""
    reader = Format(path, config.ignore, config.split_column)
    waiting: list[Row] = []
    for rows in _first_rows(files, config):
        waiting += rows
        if len(waiting) >= _ROWS_AT_ONCE:
            yield from _by_file(path, reader.read(waiting))
            waiting = []
    yield from _by_file(path, reader.read(waiting))


def _by_file(path: Path, readings: Sequence[Reading]) -> Iterator[tuple[str, _Attempt]]:
    for name, of_file in itertools.groupby(readings, lambda reading: reading.row.file):
        yield name, _Attempt(path, list(of_file))


def _check_named(path: Path, files: Mapping[str, Path], config: Prompts) -> None:
    """Raise UserError for a file that the named format reads nothing of, where its looks say why."""
    for name, attempt in _attempts(path, files, config):
        look = None if attempt.of_its_form else not_rows(files[name])
        if look:
            raise UserError(
                f"prompts.format = {config.format} reads none of the first {len(attempt.readings)} rows "
                f"of {name}: {look}"
            )


def _auto(files: Mapping[str, Path], config: Prompts) -> Path:
    """The format that reads the first rows of every file."""
    first_rows = next(filter(None, _first_rows(files, config)), None)
    if first_rows is None:
        names = ", ".join(files)
        raise UserError(f"prompts.format = auto: the input has no rows to look at: {names} is empty")
    first_name = first_rows[0].file
    chosen = _format_of_rows(first_name, files[first_name], first_rows, config)
    read = 0
    looked_at = 0
    without_rows = set(files)
    for name, attempt in _attempts(chosen, files, config):
        without_rows.discard(name)
        read += attempt.read
        looked_at += len(attempt.readings)
        if attempt.read <= _AUTO_SHARE * len(attempt.readings):
            _refuse_other(name, files[name], first_name, attempt, config)
    if without_rows:
        _log.info("without any row: %s", ", ".join(sorted(without_rows)))
    _log.info(
        "prompts.format = auto: taken for %s, which reads %d of the first %d rows",
        chosen.stem,
        read,
        looked_at,
    )
    return chosen


def _refuse_other(name: str, path: Path, first_name: str, attempt: _Attempt, config: Prompts) -> None:
    """Raise the error for a file that the format of the first one does not read."""
    _check_unread(name, attempt, config)
    rows = [reading.row for reading in attempt.readings]
    if not any(_attempt(other, rows, config).of_its_form for other in shipped()):
        _check_looks(name, path, rows)
    raise _other_file(name, first_name, attempt)


def _check_looks(name: str, path: Path, rows: Sequence[Row]) -> None:
    """Raise UserError where a file that no format reads looks like something else."""
    if kind_of(rows):
        return
    look = not_rows(path)
    if look:
        raise UserError(f"prompts.source: {name} has no rows that can be read: {look}")


def _format_of_rows(name: str, file: Path | None, rows: Sequence[Row], config: Prompts) -> Path:
    """The one format that reads a file's first rows. Raises UserError if none does, or several."""
    if not rows:
        raise UserError("prompts.format = auto: the input has no rows to look at")
    attempts = [_attempt(path, rows, config) for path in shipped()]
    least = _AUTO_SHARE * len(rows)
    able = [attempt for attempt in attempts if attempt.of_its_form > least]
    if file and not any(attempt.of_its_form for attempt in attempts):
        _check_looks(name, file, rows)
    if len(able) != 1:
        raise _not_recognised(name, rows, attempts, several=bool(able))
    (chosen,) = able
    if chosen.read <= least:
        _check_unread(name, chosen, config)
    return chosen.path


def _check_unread(name: str, attempt: _Attempt, config: Prompts) -> None:
    """Raise UserError where more than half of a file's rows have columns that may not be left out."""
    count = sum(reading.reason == UNREAD for reading in attempt.readings)
    if count > (1 - _AUTO_SHARE) * len(attempt.readings) or (count and not attempt.read):
        to_ignore = tuple(dict.fromkeys([*config.ignore, *attempt.unread()]))
        kind = kind_of([reading.row for reading in attempt.readings])
        looks = f"; its rows look like {kind}" if kind else ""
        why = unread_sentence(attempt.unread(), to_ignore)
        raise UserError(
            f"prompts.format = auto: {name} is in the format {attempt.path.stem}, but {count} of its first "
            f"{len(attempt.readings)} rows have columns that are {why} "
            f"(copy pipelines/sql/{attempt.path.name} and name your copy in prompts.format){looks}"
        )


def _other_file(name: str, first_name: str, attempt: _Attempt) -> UserError:
    """The error for a file that is in another format than the first one."""
    rows = [reading.row for reading in attempt.readings]
    return UserError(
        f"prompts.format = auto: {first_name} was taken for {attempt.path.stem}, which reads {attempt.read} "
        f"of the first {len(rows)} rows of {name}: {columns_text(rows)}; {attempt.complaint()}; take this "
        "file out of prompts.source, or name the format"
    )


def _not_recognised(name: str, rows: Sequence[Row], attempts: Sequence[_Attempt], several: bool) -> UserError:
    """The error for rows that no format reads, or `several`: their columns, their looks, what to do."""
    who = "several formats" if several else "no format"
    counts = ", ".join(f"{attempt.path.stem} {attempt.read}" for attempt in attempts)
    said = [
        f"prompts.format = auto: {who} can read the first {len(rows)} rows of {name} (rows read: {counts})",
        columns_text(rows),
    ]
    kind = kind_of(rows)
    if kind:
        said.append(f"they look like {kind}")
    if not several:
        nearest = _nearest(set(columns(rows)), attempts)
        said.append(f"{nearest.path.stem} says: {nearest.complaint()}")
    said.append("name the format, or copy the nearest pipelines/sql/*.sql and name your copy")
    return UserError("; ".join(said))


def _nearest(columns: set[str], attempts: Sequence[_Attempt]) -> _Attempt:
    """The attempt of the format that reads most of these columns."""

    def shared(attempt: _Attempt) -> tuple[int, int, int]:
        reads = Format(attempt.path).columns
        known = set(reads.reads) if reads else set()
        return attempt.of_its_form, len(known & columns), attempt.of_its_columns

    return max(attempts, key=shared)
