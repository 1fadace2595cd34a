"""A table of text is read as Python's csv reads it, row by row, or refused with its place; none is lost."""

import bz2
import csv
import gzip
import io
import json
import random

import pytest

from engine.inputs import find
from engine.raw import rows
from engine.recognise import format_of
from schemas.errors import UserError
from schemas.sections import Prompts

HEADER = ["prompt", "chosen", "rejected"]
LETTERS = ["a", "é", "月", ",", "\t", ";", '"', '""', "\n", "\r\n", "\0", " ", "\u2028", "'", "5", "\\", "{"]


def read(path, limit=1000):
    return list(rows({path.name: path}, limit))


def table(cells, delimiter=",", **how):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, **how).writerows(cells)
    return text.getvalue()


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_cells_are_the_texts_that_were_written(tmp_path, monkeypatch, name, quoting, ending):
    draw = random.Random(f"{name} {quoting} {ending}")
    delimiter = "\t" if name.endswith("tsv") else ","
    cells = [["".join(draw.choices(LETTERS, k=draw.randint(1, 9))) for _ in HEADER] for _ in range(60)]
    path = tmp_path / name
    text = table([HEADER, *cells], delimiter, quoting=quoting, lineterminator=ending)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    for chunk in (1, 2, 3, 7, 1 << 20):
        monkeypatch.setattr("engine.raw._CHUNK", chunk)
        result = read(path)
        assert [row.reason for row in result] == [None] * 60, chunk
        assert [list(json.loads(row.text).values()) for row in result] == cells, chunk
    # A row's line is the one where it begins.
    by_line = text.encode().split(b"\n")
    for row, written in zip(result, cells, strict=True):
        alone = table([written], delimiter, quoting=quoting, lineterminator=ending).encode()
        assert by_line[row.line - 1] == alone.split(b"\n")[0]


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, bz2.compress])
def test_compression(tmp_path, pack):
    suffix = {gzip.compress: ".gz", bz2.compress: ".bz2"}.get(pack, "")
    path = tmp_path / f"X.CSV{suffix}"
    path.write_bytes(pack(b"prompt,chosen,rejected\nq,a,b\n"))
    assert [json.loads(row.text) for row in read(path)] == [{"prompt": "q", "chosen": "a", "rejected": "b"}]


def test_no_cell_is_guessed_and_only_an_empty_one_is_null(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('a,b,c,d\n007,1e5,NaN,true\n,"",NULL,\n"",,"x,"",y",""\n')
    values = [json.loads(row.text) for row in read(path)]
    assert values == [
        {"a": "007", "b": "1e5", "c": "NaN", "d": "true"},
        {"a": None, "b": "", "c": "NULL", "d": None},
        {"a": "", "b": None, "c": 'x,",y', "d": ""},
    ]


BROKEN = {
    "too few cells": (
        b"q,a\n",
        "bad_csv",
        "2 cells, and the header names 3 columns (prompt, chosen, rejected)",
    ),
    "too many cells": (b"q,a,b,c\n", "bad_csv", "4 cells"),
    "text behind a quote": (b'"q" r,a,b\n', "bad_csv", "text follows the closing quote"),
    "quotes that are not doubled": (b'"say "hi" now",a,b\n', "bad_csv", "text follows the closing quote"),
    "a lone return": (b"q\rr,a,b\n", "bad_csv", "new-line character"),
    "Latin-1": ("q,ma\xf1ana,b\n".encode("latin-1"), "bad_utf8", "byte 5 of the row is 0xf1"),
    "over-long": (b"q," + b"x" * 2000 + b",b\n", "over_long", "2004 bytes, more than prompts.max_row_bytes"),
    "over-long and in quotes": (b'q,"' + b'x\n""y,' * 400 + b'",b\n', "over_long", "prompts.max_row_bytes"),
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_a_broken_row_is_refused_alone(tmp_path, monkeypatch, kind, chunk):
    raw, reason, said = BROKEN[kind]
    monkeypatch.setattr("engine.raw._CHUNK", chunk)
    path = tmp_path / "x.csv"
    path.write_bytes(b'prompt,chosen,rejected\n1,"a\nb",c\n\n' + raw + b"5,e,f\n")
    first, broken, last = read(path)
    assert (first.reason, last.reason) == (None, None)
    assert json.loads(first.text)["chosen"] == "a\nb" and json.loads(last.text)["prompt"] == "5"
    assert (broken.reason, broken.line) == (reason, 5) and said in broken.detail
    assert (first.line, last.line) == (2, 5 + raw.count(b"\n"))


@pytest.mark.parametrize(
    ("below", "line"),
    [('1,a,b\n2,"a,b\n3,c,d\n', 3), ('1,a,b\n"2,a,b\n3,"c",d\n4,e,f\n', 3), ('1,"a\nb" c\nd",e\n', 2)],
)
def test_a_quote_that_hides_rows_stops_the_run(tmp_path, below, line):
    """Never closed, or closed by the quote that opens a cell of another row."""
    path = tmp_path / "x.csv"
    path.write_text("prompt,chosen,rejected\n" + below)
    with pytest.raises(
        UserError, match=rf"x\.csv: a quote that opens in the row of line {line} is not closed"
    ):
        read(path)


@pytest.mark.parametrize(
    ("name", "raw", "said"),
    [
        ("x.csv", b"prompt;chosen;rejected\nq;a;b\n", "CSV with semicolons.*sep=';'.*to_csv"),
        ("x.csv", b"prompt\tchosen\nq\ta\n", "looks like TSV.*rename it to x.csv.tsv"),
        ("x.tsv", b"prompt,chosen\nq,a\n", "looks like CSV.*rename it to x.tsv.csv"),
        ("x.csv", b"prompt,prompt,chosen\nq,r,a\n", "several columns named prompt"),
        ("x.csv", b'{"prompt": "q"}\n', "looks like JSON; rename it"),
        ("x.csv", b"prompt,chosen\rq,a\r", r"its lines end in \\r alone"),
        ("x.csv", b"p\0r\0o\0", "has NUL in its header"),
        ("x.csv", "frage,r\xfcckgabe\nq,a\n".encode("latin-1"), r"header is not UTF-8: byte 8.*iconv"),
        ("x.csv", b"prompt," + b"x" * 2000 + b"\nq,a\n", "should name the columns.*max_row_bytes"),
        ("x.csv", b'"prompt" x,chosen\nq,a\n', "should name the columns"),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path, name, raw, said):
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(UserError, match=said):
        read(path)


def test_an_index_of_pandas_has_the_name_that_pandas_gives_it(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(",prompt,chosen,rejected\n0,q,a,b\n1,r,a,b\n")
    assert list(json.loads(read(path)[0].text)) == ["Unnamed: 0", *HEADER]
    assert format_of(find([str(path)]), Prompts()).stem == "preference"


@pytest.mark.parametrize("raw", [b"", b"\n\n", b"prompt,chosen,rejected\n", b"prompt,chosen,rejected"])
def test_a_table_without_rows_has_none(tmp_path, raw):
    path = tmp_path / "x.csv"
    path.write_bytes(raw)
    assert read(path) == []


def test_a_row_longer_than_the_limit_is_never_held(tmp_path, monkeypatch):
    from engine import json_rows

    held = []
    finish = json_rows.OpenRow.finish

    def watched(row, part):
        held.append(len(row.beginning) + len(part))
        return finish(row, part)

    monkeypatch.setattr(json_rows.OpenRow, "finish", watched)
    monkeypatch.setattr("engine.raw._CHUNK", 1000)
    path = tmp_path / "x.csv"
    path.write_text('prompt,chosen\nq,"' + 'x""\n' * 100_000 + '"\nq,a\n')
    long, good = read(path)
    assert (long.reason, good.reason, good.line) == ("over_long", None, 100_003)
    assert len(long.text) < 10_000 and max(held) < 5000
