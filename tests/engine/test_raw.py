"""Every input row is read or refused with its place and reason; none is lost, whatever lies around it."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import json_rows
from engine.raw import find, rows
from schemas.errors import UserError
from tests.reliability.hostile_lines import hostile_lines, hostile_rows

GOOD = '{"prompt": "é\\u2028x", "n": 1}'
BAD = {
    "bad_json": b'{"prompt": ',
    "bad_utf8": b'{"prompt": "\xff"}',
    "lone_surrogate": b'{"prompt": "\\ud800"}',
    "nan": b'{"prompt": "x", "score": NaN}',
    "not_an_object": b'["x"]',
    "over_long": b'{"prompt": "' + b"x" * 2000 + b'"}',
}
HARD = [b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}", b'{"a": ' + b"9" * 5000 + b"}", b'{"a": 1e400}']


def read(path, limit=1000):
    return list(rows({path.name: path}, limit))


def test_json_lines_good_and_bad(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [GOOD.encode(), *BAD.values(), b"", b"  ", GOOD.encode() + b"\r"]
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    result = read(path)
    assert [row.reason for row in result] == [None, *BAD, None]
    # Blank lines are no rows, but they count as lines.
    assert [row.line for row in result] == [*range(1, 8), 10]
    assert "\\xff" in result[2].text
    assert json.loads(result[-1].text) == json.loads(GOOD)


def test_what_breaks_parsers_is_a_reject(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join([*HARD, GOOD.encode()]))
    assert [row.reason for row in read(path, 10_000)] == ["bad_json", "nan", "nan", None]


@pytest.mark.parametrize("ending", [b"\n", b""])
def test_an_array_keeps_its_good_elements(tmp_path, ending):
    bad = [raw for reason, raw in BAD.items() if reason != "bad_json"]
    elements = [
        GOOD.encode(),
        *bad,
        b'{"a": "],[}{\\"\\\\"}',
        b'{"bad": tru}',
        GOOD.encode(),
    ]
    path = tmp_path / "x.json"
    path.write_bytes(b" [\n" + b" ,\n".join(elements) + b"\n]" + ending)
    result = read(path)
    assert [row.reason for row in result] == [
        None,
        "bad_utf8",
        "lone_surrogate",
        "nan",
        "not_an_object",
        "over_long",
        None,
        "bad_json",
        None,
    ]
    assert [row.line for row in result] == list(range(1, 10))
    assert json.loads(result[6].text) == {"a": '],[}{"\\'}


def test_chunk_borders_do_not_matter(tmp_path, monkeypatch):
    lines = tmp_path / "x.jsonl"
    array = tmp_path / "x.json"
    values = [{"a": "x" * n, "b": ['",[]{}\\', n]} for n in range(30)]
    lines.write_text("\n".join(map(json.dumps, values)))
    array.write_text(json.dumps(values, indent=2))
    for size in (1, 2, 7, 1 << 20):
        monkeypatch.setattr("engine.raw._CHUNK", size)
        for path in (lines, array):
            assert [json.loads(row.text) for row in read(path)] == values, (size, path)


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("[]", []),
        ("[ ]\n", []),
        ('[{"a":1}] x', [None, "bad_json"]),
        ("", []),
        ('["bad"]\n{"a":1}', ["not_an_object", None]),
        ('[{"a":1}] x [{"a":2}]', [None, "bad_json", None]),
        ('[\n{"a":1}]\n\n[{"a":2}]\n', [None, None]),
    ],
)
def test_the_ends_of_an_array(tmp_path, text, reasons):
    path = tmp_path / "x.json"
    path.write_text(text)
    assert [row.reason for row in read(path)] == reasons


@pytest.mark.parametrize("text", ['[{"a":1},{"a"', '[{"a": "x"}, {"a": "y}, {"a": "z"}, {"a": "w"}]'])
def test_an_array_without_an_end_stops_the_run(tmp_path, text):
    """Cut off, or a quote missing: nobody can say how many rows are behind it."""
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"x.json breaks off or is damaged.*no end"):
        read(path)


def test_a_bracketed_first_line_does_not_hide_the_others(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('["bad"]\n' + f"{GOOD}\n" * 9)
    assert [row.reason for row in read(path)] == ["not_an_object"] + [None] * 9


def test_a_line_longer_than_memory_should_hold_is_cut(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": "' + b"x" * 5_000_000 + b'"}\n' + GOOD.encode())
    long, good = read(path)
    assert long.reason == "over_long"
    assert len(long.text) < 10_000
    assert good.reason is None


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_compression(tmp_path, suffix):
    raw = "\n".join([GOOD] * 3).encode()
    path = tmp_path / f"x{suffix}"
    with pa.output_stream(str(path), compression="detect") as stream:
        stream.write(raw)
    assert len(read(path)) == 3


def test_a_file_that_breaks_off_in_its_compression_stops_the_run(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"a": list(range(9999))}).encode())[:-500])
    with pytest.raises(UserError, match=r"x.jsonl.gz breaks off or is damaged"):
        read(path)


def test_parquet_with_nan(tmp_path):
    path = tmp_path / "x.parquet"
    turns = [[{"role": "user"}], []]
    table = pa.table({"prompt": ["a", "b"], "score": [1.5, float("nan")], "turns": turns})
    pq.write_table(table, path)
    good, bad = read(path)
    assert json.loads(good.text) == {"prompt": "a", "score": 1.5, "turns": [{"role": "user"}]}
    assert bad.reason == "nan"


def test_parquet_rows_are_checked_like_any(tmp_path):
    path = tmp_path / "x.parquet"
    text = pa.array([b"fine", b"\xff", b"x" * 5000, b"fine"]).view(pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(text), text.buffers())
    images = pa.array([b"1", b"2", b"3", b"\xfe"], pa.binary())
    pq.write_table(pa.table({"prompt": text, "image": images}), path)
    result = read(path)
    assert [row.reason for row in result] == [None, "bad_utf8", "over_long", None]
    assert json.loads(result[3].text)["image"] == {"bytes": "\\xfe"}
    assert "\\xff" in result[1].text


def test_a_damaged_parquet_file_stops_the_run(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"x.parquet"):
        read(path)


def test_folders_and_globs_in_a_fixed_order(tmp_path):
    for name in (
        "b/2.jsonl",
        "a/1.jsonl.gz",
        "a/.hidden.jsonl",
        "a/readme.md",
        "a/run/plan.json",
        "a/run/prompts-1/facts.json",
        "a/.cache/x.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert list(find([str(tmp_path)])) == ["a/1.jsonl.gz", "b/2.jsonl"]
    assert list(find([str(tmp_path / "b" / "*.jsonl"), str(tmp_path / "a")])) == ["b/2.jsonl", "a/1.jsonl.gz"]
    with pytest.raises(UserError, match="nothing to read"):
        find([str(tmp_path / "nope*.jsonl")])


def test_the_columns_that_hold_nan_are_known(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": NaN, "b": 1, "c": {"d": [Infinity]}}\n{"a": NaN, "b": tru}\n')
    first, second = read(path)
    assert (first.reason, first.not_finite) == ("nan", ("a", "c"))
    assert second.not_finite == ()
    table = pa.table({"a": [float("nan")], "b": ["x" * 2000]})
    pq.write_table(table, tmp_path / "x.parquet")
    (long,) = read(tmp_path / "x.parquet")
    assert (long.reason, long.not_finite) == ("over_long", ())


@pytest.mark.parametrize("seed", range(6))
def test_elements_are_the_same_whether_a_parser_helps_or_not(seed, monkeypatch):
    """Of whole arrays and of broken ones, in chunks of any size."""
    draw = random.Random(seed)
    rows = [json.dumps(row, indent=draw.choice([None, 1])).encode() for row in hostile_rows(seed, 20)]
    if seed % 3:
        rows += [line for line in hostile_lines(seed, 15) if len(line) < 50_000]
    draw.shuffle(rows)
    data = b"[" + draw.choice([b",", b", ", b" ,\n "]).join(rows)
    data += draw.choice([b"]", b"", b"]]", b"] x", b"],[{}]"])

    def cut(size, limit):
        pieces = []
        try:
            for piece in json_rows.elements(
                (data[at : at + size] for at in range(0, len(data), size)), limit
            ):
                pieces.append(piece)
        except EOFError as error:
            pieces.append(str(error))
        return pieces

    ways = [(size, limit) for size in (100, 5000, 1 << 20) for limit in (200, 1 << 20)]
    helped = [cut(*way) for way in ways]
    monkeypatch.setattr(json_rows._ArrayScanner, "leap", lambda scanner, chunk, begin: None)
    assert [cut(*way) for way in ways] == helped
