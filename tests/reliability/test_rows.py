"""No line of an input ends a run, none is lost: each is a row read, a duplicate or a reject with its reason.

Lines are fuzzed from a seed: keys that a JSON path cannot write, values that no type holds, JSON in strings,
bytes that are no text. They go through the SQL of every format, alone and beside others, and through whole
imports in which the rows that came out are compared with the lines that were written.
"""

import contextlib
import errno
import functools
import itertools
import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pytest

from engine.checked_rows import checked_row
from engine.commands.precompute import precompute
from engine.formats import Format, shipped
from engine.json_rows import Piece
from engine.mapping import RowMapping
from engine.raw import Row, rows
from engine.readings import Reading
from engine.scanned_rows import table_of
from engine.stages import prompts
from engine.views import views
from schemas.errors import UserError
from schemas.manifest import read_markers
from schemas.recipe import load
from schemas.store import open_store
from tests.conftest import settings
from tests.reliability.hostile_lines import KEYS, hostile_lines, seeds

AT_ONCE = 256
MAPPINGS = {
    "as it is": RowMapping(),
    "mapped": RowMapping(
        columns={"prompt": ["question", "a.b"], "tools": "functions", "chosen": "output"},
        roles={"human": "user"},
        turns={"role": "from", "content": "value"},
        metadata=("*",),
    ),
}
FORMATS = [path.stem for path in shipped()]


@functools.cache
def reader(name: str, mapping: str) -> Format:
    (path,) = [path for path in shipped() if path.stem == name]
    return Format(path, ignore=("ratings",) if mapping == "mapped" else (), mapping=MAPPINGS[mapping])


def go_through(format_: Format, batch: list[Row]) -> list[Reading]:
    """Read a batch and make a shard of it; every row comes out once."""
    readings = format_.read(batch)
    assert [reading.row.line for reading in readings] == [row.line for row in batch]
    made = prompts.make(table_of(readings, None), None, None)
    counts = made.counts
    assert counts["rows_out"] + counts["rejects"] + counts["duplicates"] == len(batch)
    return readings


def try_lines(trial, lines: list[bytes], formats: list[str], mappings: list[str]) -> None:
    """Each line through the formats, in batches; where a batch fails each of its rows by itself."""
    checked = [checked_row("f", number, Piece(line)) for number, line in enumerate(lines, 1)]
    for begin in range(0, len(checked), AT_ONCE):
        batch = checked[begin : begin + AT_ONCE]
        for name, mapping in itertools.product(formats, mappings):
            try_batch(trial, name, mapping, batch)


def try_batch(trial, name: str, mapping: str, batch: list[Row]) -> None:
    readings: list[Reading] = []
    with contextlib.suppress(Exception):
        readings = go_through(reader(name, mapping), batch)
    for number, row in enumerate(batch):
        with trial(f"{name}, {mapping}: {row.text[:200]}"):
            reading = readings[number] if readings else go_through(reader(name, mapping), [row])[0]
            assert reading.reason is None or reading.detail, f"no sentence says why: {reading.reason}"


def test_hostile_lines_through_every_format(trials):
    with trials("a hostile line, through the SQL of each format") as trial:
        try_lines(trial, list(hostile_lines(1, 512)), FORMATS, ["as it is"])
        try_lines(trial, list(hostile_lines(2, 128)), FORMATS, ["mapped"])


@pytest.mark.long
def test_many_hostile_lines_through_every_format(trials):
    with trials("a hostile line, through the SQL of each format") as trial:
        for seed in range(10, 18):
            try_lines(trial, list(hostile_lines(seed, 4096)), FORMATS, list(MAPPINGS))


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.long)])
def test_a_hostile_key_beside_what_a_format_reads(every, trials):
    """Every key of the list at the top of a row of every format: it is read, or named, or refused."""
    with trials("a hostile key, in a row of each format") as trial:
        lines = [json.dumps(seed | {key: 1}).encode() for seed in seeds()[::every] for key in KEYS]
        try_lines(trial, lines, FORMATS, ["as it is"])


# SQL of a user's own that fails on rows: what DuckDB raises is of many classes.
PASTED = {
    "a key pasted into a path": "json_extract_string(row, '$.' || json_keys(row)[1])",
    "a number too large": "(9223372036854775807::bigint + (row->>'n')::bigint)::varchar",
    "a text too long": "left(repeat('x', (row->>'n')::bigint * 10000000000), 1)",
    "a text that is no number": "((row->>'text')::double)::varchar",
    "an error of its own": "case when (row->>'n') = '1' then error('KeyboardInterrupt') else 'x' end",
    "a code of no letter": "chr(-(row->>'n')::int)",
}


@pytest.mark.parametrize("what", PASTED)
def test_sql_that_fails_on_a_row_refuses_that_row_alone(what, tmp_path, trials):
    path = tmp_path / "mine.sql"
    path.write_text(
        "-- format: mine\n"
        f"select n, [{{role: 'user', content: coalesce(nullif({PASTED[what]}, ''), 'x')}}] as messages, "
        "[] as responses, null as problem from raw"
    )
    bad = json.dumps({'"': "?", "n": 1, "text": "query interrupted: KeyboardInterrupt"})
    good = json.dumps({"a": "?", "n": 0, "text": "1"})
    with trials("a row on which a format's SQL fails") as trial:
        for place in range(7):
            batch = [Row("f", line, bad if line == place else good) for line in range(7)]
            with trial(f"{what}, row {place}"):
                readings = Format(path).read(batch)
                refused = [reading.row.line for reading in readings if reading.reason]
                assert refused == [place] and readings[place].reason == "format" and readings[place].detail


@pytest.mark.parametrize(
    "sql", ["select error('no')", "select n, nothing from raw", "selec n", "select 1 as n"]
)
def test_sql_that_fails_without_a_row_is_an_error_that_names_the_file(sql, tmp_path):
    path = tmp_path / "mine.sql"
    path.write_text(f"-- format: mine\n{sql}")
    with pytest.raises(UserError, match=r"mine\.sql: the format's SQL fails"):
        Format(path).read([Row("f", 1, "{}")])


def counted(run: Path) -> dict[str, int]:
    """What the shards of `prompts` counted, added up."""
    totals: dict[str, int] = {}
    store = open_store(run)
    for folder in run.glob("prompts-*"):
        for marker in read_markers(store.child(folder.name)):
            for name, count in marker.counts.items():
                totals[name] = totals.get(name, 0) + count
    return totals


@pytest.mark.parametrize(("count", "shards"), [(1500, 3), pytest.param(30_000, 7, marks=pytest.mark.long)])
def test_an_import_of_hostile_lines_adds_up_to_what_was_written(count, shards, tmp_path, trials):
    lines = list(hostile_lines(count, count))
    for number in range(0, count, 3):  # so that the format is recognised, and something is made
        lines.insert(
            number * 4 // 3, json.dumps({"prompt": f"{number}?", "chosen": "A", "rejected": "B"}).encode()
        )
    source = tmp_path / "rows.jsonl"
    source.write_bytes(b"\n".join(lines) + b"\n")
    written = sum(1 for line in lines if line.strip())
    (tmp_path / "recipe.toml").write_text("[prompts]\nformat = 'preference'\n[given]\n")
    words = settings(prompts__source=source, prompts__shards=shards)
    with trials("a hostile line, in a whole import") as trial:
        with trial(f"{count} lines"):
            precompute(tmp_path / "run", load(tmp_path / "recipe.toml", words[1::2]), 1)
            counts = counted(tmp_path / "run")
            assert counts["rows_in"] == written
            assert counts["rows_out"] + counts["rejects"] + counts["duplicates"] == written
        refused = views(open_store(tmp_path / "run"))["rejects"].to_table(
            columns=["stage", "file", "line", "detail"]
        )
        rejected = [row for row in refused.to_pylist() if row["stage"] == "prompts"]
        places = {row["line"] for row in rejected}
        readings = reader("preference", "as it is").read(
            [
                checked_row("rows.jsonl", line, Piece(text))
                for line, text in enumerate(lines, 1)
                if text.strip()
            ]
        )
        for reading in readings:
            with trial(f"line {reading.row.line}"):
                assert (reading.row.line in places) == (reading.reason is not None)


def test_a_value_that_python_does_not_have_refuses_its_row_alone(tmp_path, trials):
    """A time in the year 146 billion, in a column that nothing reads."""
    values = {
        "timestamp": pa.array([1, 2**62, 3], pa.timestamp("s")),
        "microseconds": pa.array([1, 2**62, 3], pa.timestamp("us")),
        "date": pa.array([1, 2**30, 3], pa.date32()),
    }
    with trials("a date that no calendar has, in Arrow") as trial:
        for name, column in values.items():
            with trial(name):
                table = pa.table({"prompt": ["a", "b", "c"], name: column})
                path = tmp_path / f"{name}.arrow"
                with pa.ipc.new_file(path, table.schema) as writer:
                    writer.write_table(table)
                found = list(rows({"f": path}, 10_000))
                assert [row.reason for row in found] == [None, "unreadable", None]
                assert name in found[1].detail and json.loads(found[2].text)["prompt"] == "c"


ELEMENTS = [json.dumps({"prompt": f"{number}?", "chosen": "A", "rejected": ["B"]}) for number in range(40)]
UNBALANCED = {
    "a bracket is missing": lambda text: text[:-1],
    "an inner bracket is missing": lambda text: text.replace("]", ""),
    "a quote is missing": lambda text: text[:-3] + text[-2:],
    "a bracket too many": lambda text: text + "}",
    "an inner bracket too many": lambda text: text.replace("]", "]]"),
}


@pytest.mark.parametrize("what", UNBALANCED)
@pytest.mark.parametrize("between", [", ", ",\n", "\n,\n  "])
def test_an_unbalanced_element_of_an_array_is_named_by_its_place(what, between, tmp_path, trials):
    """The message leads to the element: whoever mends it there reads the whole array."""
    path = tmp_path / "rows.json"
    with trials("a JSON array with one element unbalanced") as trial:
        for bad in range(0, 40, 3):
            with trial(f"{what}, element {bad + 1}"):
                spoilt = [*ELEMENTS]
                spoilt[bad] = UNBALANCED[what](spoilt[bad])
                path.write_text(f"[{between.join(spoilt)}]")
                with pytest.raises(UserError) as error:
                    list(rows({"rows.json": path}, 10_000))
                found = re.search(r"element (\d+)\D+byte (\d+)(?: in line|, line) (\d+)", str(error.value))
                number, byte, line = map(int, found.groups())
                assert number == bad + 1 and str(path) in str(error.value)
                text = path.read_bytes()
                assert line == text[:byte].count(b"\n") + 1
                begin = text.rfind(b'{"prompt"', 0, byte + 8)
                assert text[begin:].startswith(f'{{"prompt": "{bad}?"'.encode())
                spoilt[bad] = ELEMENTS[bad]
                path.write_text(f"[{between.join(spoilt)}]")
                assert len(list(rows({"rows.json": path}, 10_000))) == 40


class Failing:
    """A stream of a disk that fails after some bytes."""

    def __init__(self, begin: bytes, error: OSError):
        self.begin, self.error = begin, error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read(self, size: int) -> bytes:
        begin, self.begin = self.begin[:size], self.begin[size:]
        if not begin:
            raise self.error
        return begin


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ENOENT, errno.ESTALE])
def test_a_disk_that_fails_while_an_input_is_read_is_an_error_that_names_it(
    number, tmp_path, trials, monkeypatch
):
    line = b'"a", "b"\n'
    with trials("an error of the disk while an input is read") as trial:
        for suffix in (".jsonl", ".json", ".csv", ".jsonl.gz", ".csv.zst"):
            path = tmp_path / f"rows{suffix}"
            path.write_bytes(line)
            for read in (0, 1, 3, 7):
                error = OSError(number, os.strerror(number))
                stream = Failing(line * read, error)
                monkeypatch.setattr(pa, "input_stream", lambda *_, stream=stream, **__: stream)
                with (
                    trial(f"{suffix} after {read} lines"),
                    pytest.raises(UserError, match=rf"{path} cannot be read: {os.strerror(number)}"),
                ):
                    list(rows({"f": path}, 10_000))
