"""An answer on the screen: what fits is a table, what does not is a record a row; nothing is lost unsaid."""

import math
import random

import pyarrow as pa
import pytest

from engine.answers import Looks, as_table
from engine.cells import cell, number
from tests.conftest import command

_LONG = "one two three " * 60


def test_a_number_keeps_four_digits_and_all_before_the_point():
    draw = random.Random(0)
    for _ in range(2000):
        value = draw.choice([-1, 1]) * math.exp(draw.uniform(-80, 80))
        assert float(number(value)) == pytest.approx(value, rel=5e-4)
    said = [
        number(value) for value in (0.0, 3.0, 0.1, 123456.7, 12345.0, 0.00012346, 1e-9, math.inf, math.nan)
    ]
    assert said == ["0", "3", "0.1", "123457", "12345", "0.0001235", "1.000e-09", "inf", "nan"]


def test_a_long_text_or_list_is_cut_off_with_its_length():
    assert cell(_LONG, 60).endswith("… (840 characters)") and len(cell(_LONG, 60)) == 60
    assert cell(_LONG, None) == _LONG and cell("short", 60) == "short"
    assert cell([0.123456, 2.0] * 64, 60) == "[0.1235, 2, 0.1235, 2, 0.1235, 2, … 128 in all]"
    assert cell([0.123456, 2.0], None) == "[0.123456, 2.0]"
    assert cell({"a": "x, y", "b": [None, True]}, 60) == '{a: "x, y", b: [null, true]}'


@pytest.mark.parametrize("width", [40, 60, 100, 160])
def test_no_line_is_wider_than_the_screen(width):
    rows = pa.table({"id": ["a" * 32, "b" * 32], "text": [_LONG, "x\ny"], "logps": [[0.5] * 90, None]})
    text = as_table(rows, Looks(width))
    assert max(map(len, text.splitlines())) <= width
    assert ("── row 2 of 2 ──" in text) == (width < 160)
    assert "90 in all" in text and "(840 characters)" in text and "null" in text


def test_a_record_has_all_lines_of_a_text_below_the_name_of_its_column():
    lines = as_table(pa.table({"prompt": ["first\n\nthird"], "long_name": [_LONG]}), Looks(60)).splitlines()
    assert lines[1:4] == ["prompt     first", "", "           third"]
    assert lines[4].startswith("long_name  one two three")


def test_wide_is_a_table_and_full_is_all_of_it():
    rows = pa.table({"text": [_LONG], "score": [1.23456789], "ids": [list(range(30))]})
    assert "── row" in as_table(rows, Looks(80)) and "── row" not in as_table(rows, Looks(80, wide=True))
    full = as_table(rows, Looks(80, full=True))
    assert "1.23456789" in full and "28, 29]" in full.replace("\n", "") and "characters" not in full
    assert _LONG in as_table(rows, Looks(80, wide=True, full=True))


def test_a_letter_of_two_columns_counts_as_two():
    rows = pa.table({"text": ["日本" * 15]})
    assert "── row" in as_table(rows, Looks(50)) and "── row" not in as_table(rows, Looks(64))


def test_a_pair_can_be_read(made_run):
    said = command("engine", "sql", made_run, "select * from pairs limit 1").stdout
    assert "── row 1 of 1 ──" in said and "in all]" in said and max(map(len, said.splitlines())) <= 160
    done = command("engine", "sql", made_run, "select 1", "--full", "--format", "csv", code=2)
    assert "are for tables" in done.stderr
