"""What is drawn on a terminal: tables that cut nothing off, bars that fit, a result as JSON, at any width."""

import io
import json
import math
import re
import subprocess
import sys

import pytest

from schemas import room, screen, terminal
from schemas.amounts import rounded
from schemas.bars import Row, drawn_rows
from schemas.documents import document
from schemas.summaries import as_summary
from tests.conftest import ROOT
from tests.reliability.test_screen import COMMANDS, SEQUENCES, is_clean

WIDTHS = (24, 40, 60, 61, 80, 100, 200)
HOSTILE = [*SEQUENCES.values(), "[bold]x[/bold]", ":smile:", "a\tb", "שלום", "漢字" * 9, "x" * 300, "[/]"]


class OnTerminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_terminal(monkeypatch):
    """Standard output and the error output as one terminal of a width that the test sets."""

    def of_width(width: int, **environment: str) -> OnTerminal:
        stream = OnTerminal()
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", "24")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return of_width


def without_style(text: str) -> str:
    """The text without the colours that are ours; whatever else a terminal obeys is left in it."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def letters(text: str) -> str:
    """What is read of a table: no frame, no blanks, so that wrapping changes nothing."""
    return re.sub(r"[\s│┆╞═╪╡┌┐└┘─┬┴]", "", text)


def cells_wide(line: str) -> int:
    from rich.cells import cell_len

    return cell_len(line)


TABLE = [
    {
        "folder": "generate-98a039ba26d0",
        "shards": "12/400",
        "rows": "120,000 responses, 1,200 rejects",
        "x": 0.5,
    },
    {"folder": "a folder of somebody/train-49a0c16d8e43", "shards": "1/400", "rows": "none yet", "x": -12.25},
]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_summary_cuts_nothing_off_and_fits(on_terminal, width):
    on_terminal(width)
    shown = without_style(as_summary(TABLE))
    assert all(cells_wide(line) <= width for line in shown.split("\n"))
    narrow = "┌" not in shown
    for row in TABLE:
        for value in row.values():
            word = f"{value:.3f}" if isinstance(value, float) else str(value)
            if narrow:
                assert letters(word) in letters(shown)
            for part in word.split():
                assert isinstance(value, str) or part in shown, "a number is never broken"
    assert narrow == (width < 60)


@pytest.mark.parametrize("width", (24, 60, 80))
@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_no_text_in_a_summary_or_a_bar_is_obeyed_or_read_as_markup(on_terminal, width, hostile):
    stream = on_terminal(width)
    shown = without_style(as_summary([{hostile: hostile, "n": 1}]))
    assert is_clean(shown)
    if hostile.isascii() and hostile.isprintable():
        assert letters(hostile) in letters(shown)
    drawn = terminal.as_text(drawn_rows([Row(hostile, 0.5, (hostile,))], width), width)
    assert is_clean(without_style(drawn))
    assert all(cells_wide(line) <= width for line in without_style(drawn).split("\n"))
    assert stream.getvalue() == ""


def test_a_summary_without_a_terminal_keeps_a_row_on_its_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    shown = as_summary(TABLE)
    assert "\x1b" not in shown
    for row in TABLE:
        assert any(row["folder"] in line and row["rows"] in line for line in shown.split("\n"))


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_leave_out_what_matters_least(on_terminal, width):
    on_terminal(width)
    rows = [
        Row("generate", 0.25, ("120 of ~480 responses", "35 s left", "212 tokens/s")),
        Row("all", 0.1, ("3 of 32 shards", "55 s left", "")),
        Row("reading", None, ("1,000 rows", "20 rows/s")),
    ]
    lines = without_style(terminal.as_text(drawn_rows(rows, width), width)).split("\n")
    assert len(lines) == 3
    assert all(cells_wide(line) <= width for line in lines)
    for words, least in (("120 of ~480 responses", 40), ("35 s left", 60), ("212 tokens/s", 80)):
        assert (words in lines[0]) == (width >= least), (words, width)


def test_colours_are_left_out_where_they_are_not_wanted(on_terminal):
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        stream = on_terminal(80, **environment)
        screen.complain("no recipe at x")
        assert ("\x1b[" in stream.getvalue()) == coloured
        assert without_style(stream.getvalue()) == "error: no recipe at x\n"
        assert ("\x1b[" in as_summary(TABLE)) == coloured
        assert terminal.shows_bars() == (environment.get("TERM") != "dumb")
        with screen.routed(quiet=True, as_json=False, lines_are_result=False):
            assert not terminal.shows_bars()


def test_lines_stand_whole_above_the_bars(on_terminal):
    """A line longer than the terminal gets no break of ours, or a path in it could not be copied."""
    stream = on_terminal(60)
    line = "policy: " + "/folder" * 20 + " [bold]x[/bold]"
    from schemas.bars import Bars

    bars = Bars(lambda: [Row("training", 0.5, ("step 1 of 2",))])
    try:
        screen.say(line)
    finally:
        bars.close()
    assert line in without_style(stream.getvalue())
    screen.say("after")
    assert stream.getvalue().endswith("after\n")


def test_a_document_is_json_without_nan_keys_or_commands(monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "quite-unlike-a-key")
    value = {
        "texts": ["".join(COMMANDS), *SEQUENCES.values()],
        "numbers": [1, 0.5, math.nan, math.inf],
        "key": "sent quite-unlike-a-key",
        "nested": {"none": None, "yes": True, 3: ("a", "b")},
    }
    text = document(value)
    assert is_clean(text)
    read = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert read["texts"] == value["texts"], "it means what it meant"
    assert read["numbers"] == [1, 0.5, None, None]
    assert read["key"] == "sent (not shown)"
    assert read["nested"] == {"none": None, "yes": True, "3": ["a", "b"]}


@pytest.mark.parametrize("quiet", [False, True])
def test_a_document_is_given_to_a_terminal_too(on_terminal, quiet):
    stream = on_terminal(80)
    with screen.routed(quiet, as_json=True, lines_are_result=True):
        screen.say("line")
        screen.give(lambda: {"texts": list(SEQUENCES.values())})
    assert is_clean(stream.getvalue())
    assert json.loads(stream.getvalue()) == {"texts": list(SEQUENCES.values())}


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("lines_are_result", [False, True])
def test_where_lines_go(capsys, quiet, as_json, lines_are_result):
    with screen.routed(quiet, as_json, lines_are_result):
        screen.say("line")
        screen.warn("warning")
        screen.note("note")
        screen.say("error", err=True)
        screen.give(lambda: {"result": 1})
    out, err = capsys.readouterr()
    assert "error" in err
    assert ("note" in err) == (not quiet)
    if as_json:
        assert json.loads(out) == {"result": 1}
        assert ("line" in err) == (not quiet and not lines_are_result)
    else:
        assert ("line" in out) == (not quiet or lines_are_result)
    assert ("warning" in err) == (quiet or as_json)
    assert ("warning" in out) == (not quiet and not as_json)
    screen.say("as before")
    assert capsys.readouterr().out == "as before\n"


NOISE = """
import subprocess, sys
from schemas import screen
with screen.routed(quiet=False, as_json=True, lines_are_result=False):
    print("from a library")
    subprocess.run(["echo", "from a process of ours"])
    screen.say("a line")
    screen.give(lambda: {"a": [1, None]})
    print("from a library, late")
print("afterwards")
"""


def test_a_document_stands_alone_whatever_others_print():
    done = subprocess.run([sys.executable, "-c", NOISE], cwd=ROOT, capture_output=True, text=True, check=True)
    document, _, after = done.stdout.rpartition("}\n")
    assert json.loads(document + "}") == {"a": [1, None]} and after == "afterwards\n"
    for said in ("from a library", "from a process of ours", "a line", "late"):
        assert said in done.stderr


@pytest.mark.parametrize(
    ("value", "text"),
    [(999.4e6, "999 M"), (999.6e6, "1 G"), (0.5, "0.5"), (1234.0, "1,230"), (999_600.0, "1 M")],
)
def test_numbers_keep_three_digits(value, text):
    assert rounded(value) == text


def test_free_memory_is_what_a_container_has_left(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("700000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000000\n")
    monkeypatch.setattr(room, "_CGROUPS", ((tmp_path / "memory.max", tmp_path / "memory.current"),))
    assert room.free_memory() == 400_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert room.free_memory() > 400_000_000
