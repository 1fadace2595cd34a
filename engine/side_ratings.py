"""The data's own numbers for the two sides of a pair, under the names that data sets give them.

Functions of DuckDB that the macros call only for rows that have such a column, as those of engine/wording.py.
A number may be written as text ("4.5"); null and NaN are no rating. What is no number is never made one.
"""

import math
from typing import Any

import duckdb
import orjson

from engine.wording import kind_in_words

_WORDS = ("score", "rating", "reward")
SIDES = ("chosen", "rejected")


def _names(side: str) -> list[str]:
    """The columns that may hold a side's number: score_chosen, chosen_score, chosen-rating …"""
    names = [f"{side}-rating"]
    for word in _WORDS:
        names += [f"{word}_{side}", f"{side}_{word}"]
    return names


_NAMES_OF_SIDE = {side: _names(side) for side in SIDES}


def add_functions(con: duckdb.DuckDBPyConnection) -> None:
    """Make the functions below known to the SQL of a connection."""
    for function, returned in ((side_ratings, "DOUBLE[]"), (ratings_in_words, "VARCHAR")):
        con.create_function(function.__name__, function, ["VARCHAR"], returned, null_handling="special")


def side_ratings(row: str) -> list[float | None]:
    """[chosen, rejected]: each side's number, None where the row has none."""
    values = orjson.loads(row)
    return [next(iter(_ratings(values, side).values()), None) for side in SIDES]


def ratings_in_words(row: str) -> str | None:
    """'code: sentence' of why a row's numbers for its sides cannot be used, or None."""
    values = orjson.loads(row)
    for side in SIDES:
        for name in _NAMES_OF_SIDE[side]:
            if values.get(name) is not None and _number(values[name]) is None:
                kind = kind_in_words(orjson.dumps(values[name]).decode())
                return (
                    f"bad_rating: {name} is {kind}; expected a number (a mean of several is not guessed); "
                    f'leave it out by prompts.ignore = ["{name}"]'
                )
        found = _ratings(values, side)
        if len(set(found.values())) > 1:
            names = " and ".join(found)
            *_, last = found
            return f'two_ratings: {names} say different things; keep one: prompts.ignore = ["{last}"]'
    return None


def _ratings(values: dict[str, Any], side: str) -> dict[str, float]:
    """The columns that rate a side, with their numbers."""
    found: dict[str, float] = {}
    for name in _NAMES_OF_SIDE[side]:
        number = _number(values.get(name))
        if number is not None:
            found[name] = number
    return found


def _number(value: object) -> float | None:
    """A finite number, or a text that is one; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
