"""A damaged input gives rows, rejects or an error that names the file; never a crash, nor fewer rows unsaid.

Each damage is read in a child process, since a crash would take the tests with it.
"""

import bz2
import csv
import gzip
import io
import json
import multiprocessing
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.raw import rows
from schemas.errors import UserError

ROWS = [{"prompt": f"{n} + 1?", "chosen": f"It is {n + 1}.", "rejected": "No.", "n": n} for n in range(30)]
COLUMNS = pa.Table.from_pylist(ROWS)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def of_table() -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(ROWS[0]))
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def of_arrow(opened) -> bytes:
    sink = pa.BufferOutputStream()
    with opened(sink, COLUMNS.schema) as writer:
        writer.write_table(COLUMNS)
    return sink.getvalue().to_pybytes()


def of_parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(COLUMNS, sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


FILES = {
    "rows.jsonl": lambda: LINES,
    "rows.json": lambda: json.dumps(ROWS).encode(),
    "rows.jsonl.gz": lambda: gzip.compress(LINES, mtime=0),
    "rows.jsonl.bz2": lambda: bz2.compress(LINES),
    "rows.jsonl.zst": lambda: pa.compress(LINES, "zstd", asbytes=True),
    "rows.csv": of_table,
    "rows.csv.gz": lambda: gzip.compress(of_table(), mtime=0),
    "rows.parquet": of_parquet,
    "rows.arrow": lambda: of_arrow(pa.ipc.new_file),
    "stream.arrow": lambda: of_arrow(pa.ipc.new_stream),
}
# Where a cut at a border cannot be told from a file that ends there: a line's end, a row's end.
WITHOUT_AN_END = ("rows.jsonl", "rows.csv")


def outcomes(path: Path, contents: list[bytes], connection) -> None:
    """Read each content under the path; send what came of it."""
    for content in contents:
        path.write_bytes(content)
        try:
            found = list(rows({path.name: path}, 1 << 20))
            connection.send(("rows", sum(row.reason is None for row in found), len(found)))
        except UserError as error:
            connection.send(("error", str(error), 0))
        except BaseException as error:
            connection.send(("raised", f"{type(error).__name__}: {error}", 0))
    connection.close()


def read_in_a_child(path: Path, contents: list[bytes]):
    """What came of each content: `crash` of one that ended the child, and another child reads the others."""
    found: list[tuple[str, object, int]] = []
    context = multiprocessing.get_context("fork")
    while len(found) < len(contents):
        ours, theirs = context.Pipe()
        child = context.Process(target=outcomes, args=(path, contents[len(found) :], theirs))
        child.start()
        theirs.close()
        try:
            while len(found) < len(contents):
                found.append(ours.recv())
        except EOFError:
            found.append(("crash", f"exit status {child.exitcode}", 0))
        child.join(30)
    return found


def judge(path: Path, outcome: tuple[str, object, int], may_end_anywhere: bool) -> None:
    kind, said, count = outcome
    assert kind in ("rows", "error"), f"{kind}: {said}"
    if kind == "error":
        assert str(path) in str(said)
    elif not may_end_anywhere:
        assert count >= len(ROWS), f"{count} rows of {len(ROWS)}, and nobody was told"


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", FILES)
def test_an_input_cut_anywhere_gives_its_rows_or_an_error_that_names_it(name, every, tmp_path, trials):
    whole = FILES[name]()
    path = tmp_path / name
    cuts = list(range(0, len(whole), every))
    with trials("an input file, cut") as trial:
        found = read_in_a_child(path, [whole[:cut] for cut in cuts])
        for cut, outcome in zip(cuts, found, strict=True):
            with trial(f"{name} cut at {cut} of {len(whole)}"):
                judge(path, outcome, may_end_anywhere=name in WITHOUT_AN_END or cut == 0)


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", FILES)
def test_an_input_with_one_bit_flipped_gives_rows_or_an_error(name, count, tmp_path, trials):
    whole = FILES[name]()
    path = tmp_path / name
    draw = random.Random(name)
    places = [(draw.randrange(len(whole)), draw.randrange(8)) for _ in range(count)]
    contents = []
    for byte, bit in places:
        content = bytearray(whole)
        content[byte] ^= 1 << bit
        contents.append(bytes(content))
    with trials("an input file with one bit flipped") as trial:
        for place, outcome in zip(places, read_in_a_child(path, contents), strict=True):
            with trial(f"{name}, byte {place[0]}, bit {place[1]}"):
                judge(path, outcome, may_end_anywhere=True)
