"""Which format the input is in, and whether it is in any: the first rows of every file, before any work.

- A file that can never be rows (another encoding, an archive …) is refused whatever the format.
- So is a file none of whose rows the format reads, where its looks say why; and the input, where a format
  that the recipe names reads none of its first rows.
- `auto` takes the one format that reads the first rows, and every file's: more than half of them. Where a
  format would read them but for columns that may not be left out, the file is refused by their names; and
  where rows that are taken for prompts alone have answers under other names.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.attempts import ROWS_TO_RECOGNISE, Attempt, attempt, attempts, first_rows
from engine.formats import shipped
from engine.looks import never_rows, not_rows
from engine.mapping_checks import check_columns, check_ours
from engine.raw import Row
from engine.refusals import check_answers, check_unread, not_recognised, nothing_read, other_file
from engine.row_looks import kind_of
from schemas.errors import UserError, did_you_mean
from schemas.extensions import included, ships
from schemas.sections import Prompts

# A format is taken for the one of the input if it can read more than this share of the first rows.
_AUTO_SHARE = 0.5
_log = logging.getLogger("prefmill")


@dataclass(frozen=True)
class _Input:
    """The files by their names, and those of them that prompts.test_source names."""

    files: Mapping[str, Path]
    of_test_source: Collection[str] = ()

    def key(self, name: str) -> str:
        """The setting that names a file."""
        return "prompts.test_source" if name in self.of_test_source else "prompts.source"

    def called(self, name: str) -> str:
        """A file's name, for a message that does not begin with its setting."""
        return f"{name} (of {self.key(name)})" if name in self.of_test_source else name


def format_of(files: Mapping[str, Path], config: Prompts, of_test_source: Collection[str] = ()) -> Path:
    """The format's SQL file for the input. Raises UserError where it, or a file, cannot be read."""
    given = _Input(files, of_test_source)
    for name, path in files.items():
        look = never_rows(path)
        if look:
            raise UserError(f"{given.key(name)}: {name} cannot be read: {look}")
    if config.format != "auto":
        path = _named_format(config.format)
        check_columns([path], files, config)
        _check_named(path, given, config)
        return path
    check_columns(shipped(), files, config)
    return _auto(given, config)


def recognise(rows: Sequence[Row]) -> Path:
    """The one format that can read the first rows. Raises UserError if none can, or several."""
    return _format_of_rows("the input", None, "prompts.source", rows[:ROWS_TO_RECOGNISE], Prompts())


def check_responses(path: Path, files: Mapping[str, Path], config: Prompts) -> None:
    """Raise UserError where no first row brings a response. For a recipe that makes none."""
    read = 0
    left_out: dict[str, None] = dict.fromkeys(config.ignore)
    for _, tried in attempts(path, files, config):
        if any(reading.responses for reading in tried.readings):
            return
        read += tried.read
        left_out |= dict.fromkeys([*tried.unread(), *tried.left_out()])
    if read:
        columns = f"; left out are its columns {', '.join(left_out)}" if left_out else ""
        raise UserError(
            f"[given] takes the responses that the rows bring, and none of the first {read} rows brings one: "
            f"they are in the format {path.stem}{columns}; write [generate] into the recipe, which makes "
            "responses, or take rows that have some (pipelines/sql/*.sql say how each format names them)"
        )


def _named_format(name: str) -> Path:
    """The format that a recipe names. Raises UserError where there is none, or a query of another kind."""
    formats = [path.stem for path in shipped()]
    if ships("sql", name, ".sql") and name not in formats:
        raise UserError(
            f"prompts.format = {name}: pipelines/sql/{name}.sql is a query of another kind; the formats are "
            f"auto, {', '.join(formats)}"
        )
    if name not in formats and not Path(name).expanduser().is_file():
        meant = did_you_mean(name, ["auto", *formats])
        raise UserError(f"prompts.format: no '{name}' in pipelines/sql and no file of that path; {meant}")
    return included("sql", name, ".sql")


def _check_named(path: Path, given: _Input, config: Prompts) -> None:
    """Raise UserError for a file that the named format reads nothing of, where its looks say why, and where
    it reads nothing of any."""
    first: tuple[str, Attempt] | None = None
    read = 0
    for name, tried in attempts(path, given.files, config):
        look = None if tried.of_its_form else not_rows(given.files[name])
        if look:
            raise UserError(
                f"prompts.format = {config.format} reads none of the first {len(tried.readings)} rows "
                f"of {given.called(name)}: {look}"
            )
        first = first or (name, tried)
        read += tried.read
    if first and not read:
        name, tried = first
        check_unread(given.called(name), tried, config, most=_AUTO_SHARE)
        raise nothing_read(given.called(name), tried, config)


def _auto(given: _Input, config: Prompts) -> Path:
    """The format that reads the first rows of every file."""
    first = next(filter(None, first_rows(given.files, config)), None)
    if first is None:
        names = ", ".join(given.files)
        raise UserError(f"prompts.format = auto: the input has no rows to look at: {names} is empty")
    first_name = first[0].file
    file = given.files[first_name]
    chosen = _format_of_rows(given.called(first_name), file, given.key(first_name), first, config)
    read = 0
    looked_at = 0
    without_rows = set(given.files)
    for name, tried in attempts(chosen, given.files, config):
        without_rows.discard(name)
        read += tried.read
        looked_at += len(tried.readings)
        if tried.read <= _AUTO_SHARE * len(tried.readings):
            _refuse_other(name, given, first_name, tried, config)
        check_answers(given.called(name), tried, config)
    if without_rows:
        _log.info("without any row: %s", ", ".join(sorted(without_rows)))
    _log.info(
        "prompts.format = auto: taken for %s, which reads %d of the first %d rows",
        chosen.stem,
        read,
        looked_at,
    )
    return chosen


def _refuse_other(name: str, given: _Input, first_name: str, tried: Attempt, config: Prompts) -> None:
    """Raise the error for a file that the format of the first one does not read."""
    file = given.files[name]
    check_unread(given.called(name), tried, config, most=_AUTO_SHARE)
    if not any(attempt(other, tried.rows, config).of_its_form for other in shipped()):
        _check_looks(name, file, given.key(name), tried.rows)
    raise other_file(given.called(name), first_name, given.key(name), tried)


def _check_looks(name: str, path: Path, key: str, rows: Sequence[Row]) -> None:
    """Raise UserError where a file that no format reads looks like something else."""
    if kind_of(rows):
        return
    look = not_rows(path)
    if look:
        raise UserError(f"{key}: {name} has no rows that can be read: {look}")


def _format_of_rows(name: str, file: Path | None, key: str, rows: Sequence[Row], config: Prompts) -> Path:
    """The one format that reads a file's first rows. Raises UserError if none does, or several."""
    if not rows:
        raise UserError("prompts.format = auto: the input has no rows to look at")
    tried = [attempt(path, rows, config) for path in shipped()]
    least = _AUTO_SHARE * len(rows)
    able = [one for one in tried if one.of_its_form > least]
    if file and not any(one.of_its_form for one in tried):
        _check_looks(name, file, key, rows)
    if len(able) != 1:
        raise not_recognised(name, rows, tried, bool(able), config)
    (chosen,) = able
    check_ours([chosen.path], config)
    if chosen.read <= least:
        check_unread(name, chosen, config, most=_AUTO_SHARE)
    return chosen.path
