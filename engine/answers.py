"""A query's answer in a form to read, to pipe or to keep: a table, CSV, JSON lines, Parquet."""

import contextlib
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from engine.answer_kinds import as_polars_takes
from engine.cells import cell
from engine.record_view import as_records
from schemas import screen_tables
from schemas.errors import UserError
from schemas.panics import Panic, panics_as_errors
from schemas.printable import one_line
from schemas.store import write_output

SHOWN_ROWS = 100
_LETTERS_OF_CELL = (240, 120, 90, 60)  # the most that still fit the screen are shown
_LETTERS_OF_RECORD = 600
_WIDEST = (1 << 16) - 1  # characters of a line, for polars
_FRAME = 3  # characters between two columns of a table


@dataclass(frozen=True)
class Looks:
    """How a table is shown. `width`: of the screen, in characters. `wide`: as a table, however wide it is.
    `full`: texts, lists and numbers as they are, nothing cut off."""

    width: int = 160
    wide: bool = False
    full: bool = False


def looks(wide: bool = False, full: bool = False) -> Looks:
    """What fits the terminal; where there is none, a dozen columns."""
    return Looks(max(shutil.get_terminal_size((160, 0)).columns, 40), wide, full)


def as_table(rows: pa.Table, looks: Looks = Looks()) -> str:
    """The first rows as a table; where it would be wider than the screen, as a record for each row."""
    with _taken_by_polars(rows):
        frame = _frame(rows.slice(0, SHOWN_ROWS))
        names = screen_tables.unique_names(map(one_line, frame.columns))
        if frame.is_empty():
            return f"no rows ({', '.join(names)})"
        text = _table_of(names, frame, looks) or _records_of(names, frame, looks)
    if len(rows) > SHOWN_ROWS:
        text += f"\n{SHOWN_ROWS} of {len(rows):,} rows; --format csv or json prints all"
    return text


def _table_of(names: Sequence[str], frame: pl.DataFrame, looks: Looks) -> str:
    """The rows as a table; empty where it is wider than the screen and that is not asked for."""
    limits = (None,) if looks.full else _LETTERS_OF_CELL[-1:] if looks.wide else _LETTERS_OF_CELL
    for letters in limits:
        columns = [_cells(column, letters) for column in frame]
        widths = [max(map(_columns_of, (name, *texts))) for name, texts in zip(names, columns, strict=True)]
        if looks.wide or sum(widths) + _FRAME * len(widths) + 1 <= looks.width:
            texts = pl.DataFrame(dict(zip(names, columns, strict=True)))
            shown = {"tbl_rows": SHOWN_ROWS, "tbl_cols": -1, "tbl_width_chars": _WIDEST}
            return screen_tables.as_table(texts, fmt_str_lengths=max(widths), **shown)
    return ""


def _cells(column: pl.Series, letters: int | None) -> list[str]:
    """The texts of a table's column, a line each."""
    return [cell(value, letters).replace("\n", "\\n") for value in column.to_list()]


def _columns_of(text: str) -> int:
    """How many columns of a screen a text takes: two for a letter of East Asia, none for an accent on one."""
    columns = 0
    for letter in text:
        if not unicodedata.combining(letter):
            columns += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
    return columns


def _records_of(names: Sequence[str], frame: pl.DataFrame, looks: Looks) -> str:
    letters = None if looks.full else _LETTERS_OF_RECORD
    columns: list[list[str]] = []
    for column in frame:
        columns.append([cell(value, letters) for value in column.to_list()])
    return as_records(names, list(zip(*columns, strict=True)), looks.width)


def as_csv(rows: pa.Table) -> str:
    """All rows as CSV: lists as JSON, bytes in base64."""
    with _taken_by_polars(rows):
        return _without_lists(_frame(rows)).write_csv()


def as_json(rows: pa.Table) -> str:
    """All rows as JSON lines: bytes in base64."""
    with _taken_by_polars(rows):
        return _without_bytes(_frame(rows)).write_ndjson()


def with_unique_names(rows: pa.Table) -> pa.Table:
    """The rows with columns of one name, as a join has them, numbered."""
    return rows.rename_columns(screen_tables.unique_names(rows.column_names))


def write(rows: pa.Table, form: str, output: Path) -> None:
    """Write all rows to a file as parquet, csv or json."""

    def fill(path: Path) -> None:
        if form == "parquet":
            pq.write_table(with_unique_names(rows), path, compression="zstd", write_page_checksum=True)
        elif form == "csv":
            with _taken_by_polars(rows):
                _without_lists(_frame(rows)).write_csv(path)
        else:
            with _taken_by_polars(rows):
                _without_bytes(_frame(rows)).write_ndjson(path)

    write_output(output, fill)


@contextlib.contextmanager
def _taken_by_polars(rows: pa.Table) -> Iterator[None]:
    """Raise UserError where polars, or Python behind it, cannot take what is in the rows."""
    try:
        with panics_as_errors():
            yield
    except (UserError, OSError):
        raise
    except (
        Panic,
        pl.exceptions.PolarsError,
        pa.ArrowException,
        NotImplementedError,
        ValueError,
        TypeError,
        OverflowError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        columns = ", ".join(f"{field.name} {field.type}" for field in rows.schema)
        raise UserError(
            f"a column of the answer is of a kind that cannot be shown ({reason}; {columns}); "
            "cast it, as in x::varchar"
        ) from None


def _frame(rows: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(as_polars_takes(with_unique_names(rows)))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _without_bytes(frame: pl.DataFrame) -> pl.DataFrame:
    """JSON and CSV have no bytes: they are written in base64."""
    names = [name for name, kind in frame.schema.items() if kind == pl.Binary]
    return frame.with_columns(pl.col(names).bin.encode("base64")) if names else frame


def _without_lists(frame: pl.DataFrame) -> pl.DataFrame:
    """CSV has no lists: they are written as JSON."""
    frame = _without_bytes(frame)
    columns: list[pl.Series] = []
    for name, kind in frame.schema.items():
        if kind.is_nested():
            columns.append(pl.Series(name, [_as_json_text(value) for value in frame[name]]))
    return frame.with_columns(columns)


def _as_json_text(value: object) -> str | None:
    if value is None:
        return None
    # polars writes '[{"v":VALUE}]'; it knows all its own types, which the json module does not.
    return pl.Series([value]).to_frame("v").write_json()[6:-2]
