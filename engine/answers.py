"""A query's answer in a form to read, to pipe or to keep: a table, CSV, JSON lines, Parquet."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from engine.answer_kinds import as_polars_takes
from schemas import screen_tables
from schemas.errors import UserError
from schemas.panics import Panic, panics_as_errors
from schemas.printable import one_line
from schemas.store import write_output

SHOWN_ROWS = 100


def as_table(rows: pa.Table) -> str:
    """The first rows as a table that fits the terminal."""
    with _taken_by_polars(rows):
        frame = _frame(rows.slice(0, SHOWN_ROWS))
        if frame.is_empty():
            return one_line(f"no rows ({', '.join(frame.columns)})")
        text = screen_tables.as_table(
            frame,
            tbl_rows=SHOWN_ROWS,
            tbl_cols=-1,
            fmt_str_lengths=60,
            fmt_float="full",
            fmt_table_cell_list_len=6,
            tbl_width_chars=_width(),
        )
    if len(rows) > SHOWN_ROWS:
        text += f"\n{SHOWN_ROWS} of {len(rows):,} rows; --format csv or json prints all"
    return text


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


def _width() -> int:
    """The terminal's, or where there is none enough for a dozen columns."""
    return max(shutil.get_terminal_size((160, 0)).columns, 80)


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
