"""A table by polars, whose texts may come from outside: they break no frame and command no terminal."""

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from schemas.printable import printable
from schemas.screen import encodable

if TYPE_CHECKING:
    import polars as pl

FRAME = "┌─┆═│…"  # of what a frame is made, where the screen can show it
_CELL = 1000  # characters of a text that are looked at; fewer are shown


def as_table(frame: "pl.DataFrame", **looks: Any) -> str:
    """A frame as text. `looks`: what pl.Config takes."""
    import polars as pl

    style = "UTF8_FULL_CONDENSED" if encodable(FRAME) == FRAME else "ASCII_FULL_CONDENSED"
    common: dict[str, Any] = {
        "tbl_hide_column_data_types": True,
        "tbl_hide_dataframe_shape": True,
        "tbl_formatting": style,
    }
    with pl.Config(**(common | looks)):
        return printable(str(_printable_frame(frame))).replace("\t", "\\t")


def unique_names(names: Iterable[str]) -> list[str]:
    """The names, numbered where one stands twice."""
    names = list(names)
    given = set(names)
    taken: set[str] = set()
    unique: list[str] = []
    for name in names:
        candidate = name
        numbers = itertools.count(2)
        while candidate in taken or (candidate != name and candidate in given):
            candidate = f"{name}_{next(numbers)}"
        taken.add(candidate)
        unique.append(candidate)
    return unique


def _printable_frame(frame: "pl.DataFrame") -> "pl.DataFrame":
    """The frame with every text in it, and every column's name, made printable."""
    import polars as pl

    columns: list[pl.Series] = []
    names = unique_names(cell(name) for name in frame.columns)
    for name, column in zip(names, frame, strict=True):
        kind = column.dtype
        if isinstance(kind, pl.Categorical | pl.Enum):
            column = column.cast(pl.String)
            kind = column.dtype
        if _holds_text(kind):
            values = [_value(value, _is_map(kind)) for value in column.to_list()]
            column = pl.Series(name, values, dtype=kind, strict=False)
        columns.append(column.alias(name))
    return pl.DataFrame(columns)


def _holds_text(kind: "pl.DataType") -> bool:
    """Whether values of a kind are texts, or have texts in them."""
    import polars as pl

    if isinstance(kind, pl.List | pl.Array):
        return _holds_text(kind.inner)  # type: ignore[arg-type]
    if isinstance(kind, pl.Struct):
        return any(_holds_text(field.dtype) for field in kind.fields)  # type: ignore[arg-type]
    if _is_map(kind):
        return _holds_text(kind.key) or _holds_text(kind.value)  # type: ignore[attr-defined]
    return kind == pl.String


def _is_map(kind: "pl.DataType") -> bool:
    """Older versions of polars have no maps."""
    return type(kind).__name__ == "Map"


def _value(value: Any, is_map: bool) -> Any:
    """A value with printable texts. Keys of an object are names of its kind, keys of a map are values."""
    if isinstance(value, str):
        return cell(value)
    if isinstance(value, list):
        return [_value(item, is_map) for item in value]
    if isinstance(value, dict):
        return {_value(key, is_map) if is_map else key: _value(item, is_map) for key, item in value.items()}
    return value


def cell(text: str) -> str:
    """A text for one cell. A tab is as wide as the terminal likes, so it cannot stand in a frame."""
    return encodable(printable(text[:_CELL])).replace("\t", "\\t")
