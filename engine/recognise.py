"""Which format the input is in, and whether it is in any: the first rows of every file, before any work.

- A file that can never be rows (another encoding, an archive …) is refused whatever the format.
- So is a file none of whose rows the format reads, where its looks say why.
- `auto` takes the one format that reads the first rows, and every file's: more than half of them. Where a
  format would read them but for columns that may not be left out, the file is refused by their names.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from engine import raw
from engine.formats import Format, shipped
from engine.looks import never_rows, not_rows
from engine.raw import Row
from engine.readings import UNREAD, Reading, unread_sentence
from schemas.errors import UserError
from schemas.extensions import included
from schemas.sections import Prompts

ROWS_TO_RECOGNISE = 100  # of each file, fewer where there are many
_FEWEST_ROWS = 5
_ROWS_OF_ALL = 5000
# A format is taken for the one of the input if it can read more than this share of the first rows.
_AUTO_SHARE = 0.5
_COLUMNS_SHOWN = 12
_PAIRS = "make rows of prompt, chosen and rejected"
_KTO = f"{_PAIRS} of two answers to one prompt"
_SEVERAL = "make rows of instruction and completions [{response, overall_score}], the format ultrafeedback"
_DIALOGUE = "make rows of prompt, chosen and rejected, the prompt being all turns but the last"
# Rows that no format reads: the columns they have, what they are, what to do.
_KINDS_OF_ROWS = (
    ({"prompt", "completion", "label"}, "unpaired answers with a label (KTO)", _KTO),
    ({"messages", "label"}, "unpaired dialogues with a label (KTO)", _KTO),
    ({"messages", "kto_tag"}, "unpaired dialogues with a label (KTO)", _KTO),
    ({"conversations", "kto_tag"}, "unpaired dialogues with a label (KTO)", _KTO),
    ({"messages", "rejected_response"}, "dialogues that end with the chosen answer (ms-swift)", _DIALOGUE),
    ({"messages", "rejected_messages"}, "a chosen and a rejected dialogue", "name them chosen and rejected"),
    ({"input", "preferred_output", "non_preferred_output"}, "OpenAI's preference rows", _PAIRS),
    ({"instruction", "chosen", "rejected"}, "rows with the prompt in instruction and input", _PAIRS),
    ({"instruction", "output"}, "instructions with one answer (Alpaca)", "make rows of prompt alone"),
    ({"prompt", "responses"}, "prompts with several answers", _SEVERAL),
    ({"prompt", "completions"}, "prompts with several answers", _SEVERAL),
    ({"prompt", "completion"}, "prompts with one answer", "make rows of prompt alone"),
    ({"prompt", "response"}, "prompts with one answer", "make rows of prompt alone"),
    ({"conversation_a", "conversation_b"}, "arena battles", f"{_PAIRS} by the winner"),
    ({"response_0", "response_1"}, "two answers numbered 0 and 1", f"{_PAIRS} by the better one"),
    ({"text"}, "texts without prompt and answer", "make rows of prompt, or of prompt, chosen and rejected"),
)


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
    samples = _first_rows(files, config.max_row_bytes)
    if config.format != "auto":
        path = included("sql", config.format, ".sql")
        _check_named(path, files, samples, config)
        return path
    return _auto(files, samples, config)


def recognise(rows: Sequence[Row]) -> Path:
    """The one format that can read the first rows. Raises UserError if none can, or several."""
    return _format_of_rows("the input", None, rows[:ROWS_TO_RECOGNISE], Prompts())


def _first_rows(files: Mapping[str, Path], max_row_bytes: int) -> dict[str, list[Row]]:
    """The first rows of each file that has any."""
    of_each = min(ROWS_TO_RECOGNISE, max(_FEWEST_ROWS, _ROWS_OF_ALL // len(files)))
    samples: dict[str, list[Row]] = {}
    for name, path in files.items():
        rows = list(itertools.islice(raw.rows({name: path}, max_row_bytes), of_each))
        if rows:
            samples[name] = rows
    return samples


def _attempt(path: Path, rows: Sequence[Row], config: Prompts) -> _Attempt:
    reader = Format(path, config.ignore, config.split_column)
    return _Attempt(path, reader.read(rows))


def _check_named(
    format_path: Path, files: Mapping[str, Path], samples: Mapping[str, Sequence[Row]], config: Prompts
) -> None:
    """Raise UserError for a file that the named format reads nothing of, where its looks say why."""
    reader = Format(format_path, config.ignore, config.split_column)
    for name, rows in samples.items():
        attempt = _Attempt(format_path, reader.read(rows))
        look = None if attempt.of_its_form else not_rows(files[name])
        if look:
            raise UserError(
                f"prompts.format = {config.format} reads none of the first {len(rows)} rows of {name}: {look}"
            )


def _auto(files: Mapping[str, Path], samples: Mapping[str, Sequence[Row]], config: Prompts) -> Path:
    """The format that reads the first rows of every file."""
    if not samples:
        names = ", ".join(files)
        raise UserError(f"prompts.format = auto: the input has no rows to look at: {names} is empty")
    empty = [name for name in files if name not in samples]
    if empty:
        _log.info("without any row: %s", ", ".join(empty))
    first_name, first_rows = next(iter(samples.items()))
    chosen = _format_of_rows(first_name, files[first_name], first_rows, config)
    reader = Format(chosen, config.ignore, config.split_column)
    read = 0
    looked_at = 0
    for name, rows in samples.items():
        attempt = _Attempt(chosen, reader.read(rows))
        read += attempt.read
        looked_at += len(rows)
        if attempt.read <= _AUTO_SHARE * len(rows):
            _check_unread(name, attempt, config)
            if not any(_attempt(path, rows, config).of_its_form for path in shipped()):
                _check_looks(name, files[name], rows)
            raise _other_file(name, first_name, attempt)
    _log.info(
        "prompts.format = auto: taken for %s, which reads %d of the first %d rows",
        chosen.stem,
        read,
        looked_at,
    )
    return chosen


def _check_looks(name: str, path: Path, rows: Sequence[Row]) -> None:
    """Raise UserError where a file that no format reads looks like something else."""
    columns = set(_columns(rows))
    if any(needed <= columns for needed, _, _ in _KINDS_OF_ROWS):
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
        names = tuple(dict.fromkeys([*config.ignore, *attempt.unread()]))
        raise UserError(
            f"prompts.format = auto: {name} is in the format {attempt.path.stem}, but {count} of its first "
            f"{len(attempt.readings)} rows have columns that are {unread_sentence(attempt.unread(), names)} "
            f"(copy pipelines/sql/{attempt.path.name} and name your copy in prompts.format)"
        )


def _columns(rows: Sequence[Row]) -> list[str]:
    """The columns of the first rows, in the order in which they are met."""
    names: dict[str, None] = {}
    for row in rows:
        if row.reason is None:
            names |= dict.fromkeys(orjson.loads(row.text))
    return list(names)


def _columns_text(rows: Sequence[Row]) -> str:
    columns = _columns(rows)
    if not columns:
        return "none of its first rows is a JSON object"
    shown = ", ".join(columns[:_COLUMNS_SHOWN])
    return f"its columns are {shown}" + (" …" if len(columns) > _COLUMNS_SHOWN else "")


def _other_file(name: str, first_name: str, attempt: _Attempt) -> UserError:
    """The error for a file that is in another format than the first one."""
    rows = [reading.row for reading in attempt.readings]
    return UserError(
        f"prompts.format = auto: {first_name} was taken for {attempt.path.stem}, which reads {attempt.read} "
        f"of the first {len(rows)} rows of {name}: {_columns_text(rows)}; {attempt.complaint()}; take this "
        "file out of prompts.source, or name the format"
    )


def _not_recognised(name: str, rows: Sequence[Row], attempts: Sequence[_Attempt], several: bool) -> UserError:
    """The error for rows that no format reads, or `several`: their columns, their looks, what to do."""
    who = "several formats" if several else "no format"
    counts = ", ".join(f"{attempt.path.stem} {attempt.read}" for attempt in attempts)
    said = [
        f"prompts.format = auto: {who} can read the first {len(rows)} rows of {name} (rows read: {counts})",
        _columns_text(rows),
    ]
    columns = set(_columns(rows))
    for needed, what, remedy in _KINDS_OF_ROWS:
        if needed <= columns:
            said.append(f"they look like {what}: {remedy}")
            break
    if not several:
        nearest = _nearest(columns, attempts)
        said.append(f"{nearest.path.stem} says: {nearest.complaint()}")
    said.append("name the format, or copy the nearest pipelines/sql/*.sql and name your copy")
    return UserError("; ".join(said))


def _nearest(columns: set[str], attempts: Sequence[_Attempt]) -> _Attempt:
    """The attempt of the format that reads most of these columns."""

    def shared(attempt: _Attempt) -> tuple[int, int]:
        reads = Format(attempt.path).columns
        known = set(reads.reads) if reads else set()
        return attempt.of_its_form, len(known & columns)

    return max(attempts, key=shared)
