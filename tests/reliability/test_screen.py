"""Nothing from outside commands the terminal, output that cannot be written is an error, and no key is
repeated: whatever the command, the place and the character.
"""

import ast
import io
import json
import logging
import os
import re
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from engine import answers
from schemas.commands import log_to_screen
from schemas.errors import UserError, exit_on_user_error
from tests.conftest import ROOT, tree
from tests.reliability.small import small_run

# What a terminal obeys, and what turns a line around.
COMMANDS = (
    *(chr(code) for code in range(0x20) if chr(code) not in "\t\n"),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029",
)
SEQUENCES = {
    "title": "\x1b]0;owned\x07",
    "title, ended by ST": "\x1b]2;owned\x1b\\",
    "link": "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;b3duZWQ=\x07",
    "clear": "\x1b[2J\x1b[H",
    "up and over": "\x1b[3A\rowned",
    "what the terminal types back": "\x1b[c\x1b[6n",
    "keys": "\x1b[?1049h",
    "device control": "\x1bP$qm\x1b\\",
    "C1": "\x9b2J\x9d0;owned\x9c",
    "backspaces": "no\b\byes",
    "turned": "abc\u202egpj.exe",
    "isolated": "\u2067abc\u2069",
}
OBEYED = re.compile("[" + "".join(map(re.escape, COMMANDS)) + "\ud800-\udfff]")


def is_clean(text: str) -> bool:
    """No character of it is obeyed; colours of our own (`bold`) are not printed to a pipe."""
    assert not OBEYED.search(text), ascii(text)
    return True


def test_a_table_shows_every_command_by_its_number(trials):
    """In a cell, a column's name, a list, an object, a key of a map, an enum; the frame stays one."""
    with trials("a control character in a table") as trial:
        for text in (
            *COMMANDS,
            *SEQUENCES.values(),
            "a\tb",
            "a\nb",
            "é" + "\u0301" * 300,
            "漢字",
            "שלום",
            "│",
        ):
            hostile = f"a{text}b"
            places = {
                "cell": {"a": [hostile]},
                "name": {hostile: [1]},
                "list": {"a": [[hostile, hostile]]},
                "object": {"a": [{"k": hostile}]},
                "object in a list": {"a": [[{"k": [hostile]}]]},
                "map": {"a": pa.array([[(hostile, hostile)]], pa.map_(pa.string(), pa.string()))},
                "enum": {"a": pa.array([hostile]).dictionary_encode()},
                "no rows": {hostile: pa.array([], pa.string())},
            }
            for place, columns in places.items():
                with trial(f"{text!a} in {place}"):
                    shown = answers.as_table(pa.table(columns))
                    assert is_clean(shown)
                    assert "\t" not in shown or place == "no rows"
                    assert place == "no rows" or shown.splitlines()[-1].endswith("┘")


def test_columns_that_become_alike_are_told_apart():
    rows = pa.table([[1], [2], [3], [4]], names=["\x1b", "\\x1b", "a_2", "a"])
    assert "\\x1b_2" in answers.as_table(rows)
    assert answers.with_unique_names(pa.table([[1]] * 3, names=["a", "a", "a_2"])).column_names == [
        "a",
        "a_3",
        "a_2",
    ]


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_csv_and_json_are_exact_in_a_pipe_and_printable_on_a_terminal(monkeypatch, trials):
    from schemas import screen

    rows = pa.table({"a": list(SEQUENCES.values())})
    with trials("CSV and JSON in a pipe and on a terminal") as trial:
        for form in (answers.as_csv, answers.as_json):
            for kind in (Terminal, io.TextIOWrapper):
                with trial(f"{form.__name__} {kind.__name__}"):
                    output = kind(io.BytesIO(), encoding="utf-8")
                    monkeypatch.setattr(sys, "stdout", output)
                    text = form(rows)
                    screen.hand_over(text)
                    monkeypatch.undo()
                    given = output.buffer.getvalue().decode()
                    assert OBEYED.search(text)
                    assert is_clean(given) if kind is Terminal else given == text


def mains() -> Iterator[tuple[str, object]]:
    from engine.cli import main as engine
    from pipelines.run import main as rounds
    from trainer.cli import main as trainer

    yield "engine", engine
    yield "trainer", trainer
    yield "rounds", rounds


def lines_of(hostile: str, recipe: str, run: str) -> Iterator[tuple[str, ...]]:
    """Command lines with something hostile at every place where one can type."""
    name = hostile.replace("/", "")
    yield "engine", hostile
    yield "engine", f"--{hostile}"
    for command in ("docs", "export", "precompute", "report", "show", "sql", "status", "verify"):
        yield "engine", command, f"--{hostile}"
    yield "engine", "precompute", name, "-o", "x"
    yield "engine", "precompute", recipe, "-o", name
    yield "engine", "precompute", recipe, "-o", run, "--executor", hostile
    yield "engine", "precompute", recipe, "-o", run, "--workers", hostile
    for setting in (
        hostile,
        f"{hostile}=1",
        f"model.{hostile}=1",
        f"model.name={hostile}",
        f"seed={hostile}",
    ):
        yield "engine", "precompute", recipe, "-o", run, "--set", setting
        yield "engine", "status", run, "--set", setting
        yield "trainer", "run", recipe, "-o", run, "--set", setting
        yield "rounds", recipe, "-o", name, "--set", setting
    yield "engine", "sql", name, "select 1"
    yield "engine", "sql", run, "select 1", "--format", hostile
    yield "engine", "sql", run, "select 1", "-o", name
    yield "engine", "sql", run, "overview", "--param", f"{hostile}=1"
    yield "engine", "report", name
    yield "engine", "report", run, "-o", name
    yield "engine", "report", run, name, "-o", "x.html"
    yield "engine", "docs", hostile
    yield "engine", "docs", name, "--path"
    yield "engine", "show", name
    yield "engine", "show", run, hostile
    yield "engine", "show", run, "--worst", hostile
    yield "engine", "export", run, "--to", hostile, "-o", "x"
    yield "engine", "init", f"--{hostile}"
    yield "engine", "init", "--data", name
    yield "engine", "init", "--data", recipe, "-o", f"{name}/{name}"
    yield "engine", "init", "--data", "rows.jsonl", "--model", name
    yield "engine", "init", "--data", "rows.jsonl", "--set", hostile
    yield "engine", "init", "--start", hostile
    yield "engine", "init", "--data", "rows.jsonl", "--model", run, "--method", hostile
    yield "engine", "sql", run, "select 1", "--timeout", hostile
    yield "engine", "status", name
    yield "engine", "status", run, "--recipe", name
    yield "engine", "status", run, "--watch", hostile
    yield "engine", "verify", name
    yield "trainer", hostile
    yield "trainer", "run", name, "-o", run
    yield "trainer", "run", recipe, "-o", name
    yield "trainer", "eval", name
    yield "trainer", "eval", run, name
    yield "trainer", "compare", name
    yield "trainer", "compare", run, "-o", name
    yield "rounds", name, "-o", "x"


def test_nothing_typed_comes_back_as_a_command(tmp_path, trials, monkeypatch):
    """Every command, every place on its command line: a sentence or a usage error, printable."""
    monkeypatch.chdir(tmp_path)
    run = str(small_run(tmp_path))
    programs = dict(mains())
    with trials("a control sequence on the command line") as trial:
        hostile = SEQUENCES["title"] + SEQUENCES["C1"] + SEQUENCES["turned"]
        for program, *words in lines_of(hostile, str(tmp_path / "recipe.toml"), run):
            with trial(ascii([program, *words])):
                done = CliRunner().invoke(programs[program], words)
                assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
                assert done.exit_code != 0 or words[0] == "status"  # which says what differs
                assert done.output
                assert is_clean(done.output)


def hostile_rows(text: str) -> list[dict]:
    """Rows of which some are read and some are refused, each with a hostile text."""
    rows: list[dict] = []
    for number in range(8):
        said = f"{text} {number}"
        rows.append({"prompt": said, "chosen": f"yes {said}", "rejected": f"no {said}", f"note {text}": said})
    rows.append({"prompt": text, "chosen": "", "rejected": text, f"note {text}": text})
    rows.append({"prompt": text, "chosen": text, "rejected": text, f"note {text}": {text: [text]}})
    return rows


def looked_at(folder: Path, text: str, capfd: pytest.CaptureFixture) -> None:
    """Making a run of hostile rows in a hostile folder, and looking at it, prints nothing hostile."""
    from engine.cli import main

    folder = folder / text.replace("/", "")
    run = small_run(folder, hostile_rows(text))
    (folder / "rows.jsonl").rename(folder / "gone.jsonl")
    outputs: list[str] = []
    for words in (
        ["status", str(run)],
        ["sql", str(run), "from prompts"],
        ["sql", str(run), "select * from rejects", "--format", "table"],
        ["precompute", str(folder / "recipe.toml"), "-o", str(run)],
    ):
        output = CliRunner().invoke(main, words).output
        assert output, words
        outputs.append(output)
    printed = capfd.readouterr()
    assert is_clean(printed.out + printed.err + "".join(outputs))


def test_no_row_or_file_name_commands_the_terminal(tmp_path, trials, capfd):
    with trials("a control sequence in rows and file names") as trial, trial("all of them"):
        looked_at(tmp_path, "".join(SEQUENCES.values()), capfd)


@pytest.mark.long
def test_no_sequence_in_rows_and_names_commands_the_terminal(tmp_path, trials, capfd):
    with trials("a control sequence in rows and file names") as trial:
        for what, text in SEQUENCES.items():
            with trial(what):
                looked_at(tmp_path, text, capfd)


def test_log_lines_and_warnings_are_printable(capfd, monkeypatch):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    logging.captureWarnings(False)
    log_to_screen()
    try:
        logging.getLogger("prefmill").info("%s is left out", "\x1b]0;x\x07.json")
        logging.getLogger("other").warning("key sk-abcdefghijklmnopqrstuvwx")
        warnings.warn("turned \u202e", stacklevel=1)
    finally:
        logging.captureWarnings(False)
    assert is_clean(stream.getvalue())
    assert "\\x1b]0;x\\x07.json is left out" in stream.getvalue()
    assert "sk-abc" not in stream.getvalue()
    assert "UserWarning: turned \\u202e" in stream.getvalue()


# Where something is printed by another way than schemas/screen.py, and why it may be.
PRINTERS = {
    "schemas/screen.py": "the way",
    "schemas/terminal.py": "console.print, above a bar: of lines that schemas/screen.py has made printable",
}


def printers(path: Path) -> list[int]:
    """The lines of a module on which it prints."""
    lines: list[int] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in (
                "print",
                "pprint",
                "click.echo",
                "click.secho",
                "live.console.print",
                "console.print",
                "warnings.showwarning",
            ) or re.fullmatch(r"sys\.(__)?std(out|err)(__)?(\.buffer)?\.write(lines)?", name):
                lines.append(node.lineno)
    return lines


def test_no_module_prints_by_another_way():
    for package in ("engine", "trainer", "schemas", "pipelines"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            assert bool(printers(path)) == (name in PRINTERS), name


def shell(line: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        cwd=ROOT,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


def ended_with_a_sentence(line: str, code: int | None) -> str:
    done = shell(line)
    said = done.stderr.decode()
    assert "Traceback" not in said and "Exception ignored" not in said, said
    if code is None:
        assert done.returncode not in (0, 120), said
    else:
        assert done.returncode == code, said
    return said


def broken_outputs(run: Path, folder: Path) -> Iterator[tuple[str, int | None]]:
    """Command lines, and their exit status; None: whatever is not success."""
    query = f"{sys.executable} -m engine.cli sql {run}"
    yield f"{query} 'select 1' >&-", None
    yield f"{query} 'from prompts' --format csv > /dev/full", None
    yield f"{query} 'selec 1' 2>&-", 1
    yield f"{query} 'select 1' --format csv -o /dev/full", None
    yield f"{query} 'select 1' > /dev/full", None
    yield f"{query} 'select 1' --format json > /dev/full", None
    yield f"{query} 'select 1' --format parquet > /dev/full", None
    yield f"{query} 'selec 1' 2> /dev/full", 1
    yield f"{query} 'select 1' <&- >/dev/null", 0
    yield f"{query} <&-", 2
    yield f"{query} 'from range(1000000)' --format csv | head -1; exit ${{PIPESTATUS[0]}}", 0
    for world in ("world", "market"):
        yield f"{sys.executable} -m pipelines.sandbox.{world} 5000 1 | head -1; exit ${{PIPESTATUS[0]}}", 0
        yield f"{sys.executable} -m pipelines.sandbox.{world} 1 1 > /dev/full", None
    yield f"{sys.executable} -m pipelines.evidence --list | true; exit ${{PIPESTATUS[0]}}", 1
    yield f"{sys.executable} -m pipelines.evidence --list > /dev/full", None
    for program in ("engine", "trainer"):
        yield f"{sys.executable} -m {program}.cli --help > /dev/full", None
        yield f"{sys.executable} -m {program}.cli --version > /dev/full", None
    yield f"{sys.executable} -m trainer.cli losses >&-", None
    yield f"{sys.executable} -m trainer.cli losses > /dev/full", None
    yield f"{sys.executable} -m trainer.cli losses | true; exit ${{PIPESTATUS[0]}}", 0
    yield f"{sys.executable} -m engine.cli status {run} >&-", None
    yield f"{sys.executable} -m engine.cli status {run} > /dev/full", None
    make = f"{sys.executable} -m engine.cli precompute {folder / 'recipe.toml'} -o {folder / 'other'}"
    make += f" --set prompts.source={folder / 'rows.jsonl'}"
    yield f"{make} >&-", None
    yield f"{make} > /dev/full", None
    yield f"{make} 2>&-", 0
    yield f"{make} 2> /dev/full", 0


FEW = 3  # that are quick


def test_output_that_cannot_be_written_is_an_error(tmp_path, trials):
    run = small_run(tmp_path)
    with trials("an output that is closed, full or cut off") as trial:
        for line, code in list(broken_outputs(run, tmp_path))[:FEW]:
            with trial(line):
                ended_with_a_sentence(line, code)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.long
def test_every_output_that_cannot_be_written_is_an_error(tmp_path, trials):
    run = small_run(tmp_path)
    before = tree(run)
    with trials("an output that is closed, full or cut off") as trial:
        for line, code in list(broken_outputs(run, tmp_path))[FEW:]:
            with trial(line):
                ended_with_a_sentence(line, code)
        for name, value in (("PYTHONIOENCODING", "ascii"), ("LC_ALL", "C"), ("PYTHONIOENCODING", "latin-1")):
            with trial(f"{name}={value}"):
                line = f"{sys.executable} -m engine.cli sql {run} \"select '漢字 é' as a\""
                done = shell(line, **{name: value})
                assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
                assert b"a" in done.stdout
    assert tree(run) == before


def test_a_pipe_is_written_into_and_not_replaced(tmp_path):
    """-o names what is no file: it is filled, and stays what it is."""
    from schemas.store import write_output

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_output(pipe, lambda path: path.write_bytes(b"rows"))
    assert os.read(reader, 10) == b"rows"
    os.close(reader)
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_output(Path("/dev/full"), lambda path: path.write_bytes(b"rows"))


class LibraryError(Exception):
    """As one of a library's own."""


LibraryError.__module__ = "pyarrow.lib"


def test_an_error_that_is_not_ours_is_a_sentence_with_a_place(capsys, trials):
    def nest() -> None:
        nest()

    def fail(error: BaseException) -> None:
        raise error

    errors = {
        "No space left on device: in ": OSError(28, "No space left on device"),
        "Input/output error: /data/x": OSError(5, "Input/output error", "/data/x"),
        "File exists: /a to /b": OSError(17, "File exists", "/a", None, "/b"),
        "Permission denied: /caf\\udce9": OSError(13, "Permission denied", b"/caf\xe9"),
        "timed out": TimeoutError("timed out"),
        "out of memory in ": MemoryError(),
        "pyarrow says: not Parquet (in ": LibraryError("not Parquet"),
        "Is a directory: a\\x1b[2J": OSError(21, "Is a directory", "a\x1b[2J"),
    }
    with trials("an error of the system or a library") as trial:
        for expected, error in errors.items():
            with trial(expected):
                with (
                    pytest.raises(SystemExit) as ended,
                    exit_on_user_error("it is kept", lambda: "engine sql"),
                ):
                    fail(error)
                said = capsys.readouterr().err
                assert ended.value.code == 1
                assert said.startswith("error: ") and expected in said, said
                assert "`engine sql` was at work" in said or getattr(error, "filename", None), said
        with trial("RecursionError"):
            with pytest.raises(SystemExit), exit_on_user_error("it is kept"):
                nest()
            assert "nested too deeply" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError), exit_on_user_error("our mistakes keep their traceback"):
        fail(ZeroDivisionError())


KEYS = (
    "sk-abcdefghijklmnopqrstuvwx0123",
    "hf_abcdefghijklmnopqrstuvwx0123",
    "github_pat_abcdefghijklmnopqrstuvwx0123",
    "AKIAABCDEFGHIJKLMNOP",
    "https://me:correct-horse-battery@host/v1",
    "https://correct-horse-battery-staple@host/v1",
    "https://host/v1?api_key=correct-horse-battery",
)
PARTS = ("abcdefghijkl", "ABCDEFGHIJKLMNOP", "correct-horse-battery")


def test_no_key_is_repeated(tmp_path, trials, monkeypatch):
    """In a setting that is refused, a recipe, a location, a query: it is neither printed nor written."""
    monkeypatch.chdir(tmp_path)
    run = str(small_run(tmp_path))
    programs = dict(mains())
    recipe = tmp_path / "recipe.toml"
    keeping = tmp_path / "keeping.toml"
    with trials("a key in a setting, a recipe or a location") as trial:
        for key in KEYS:
            keeping.write_text(
                f'[prompts]\nsource = "rows.jsonl"\n[given]\n[judge]\nbase_url = {json.dumps(key)}\n'
            )
            lines = [
                ("engine", "precompute", str(keeping), "-o", "new"),
                ("rounds", str(keeping), "-o", "new"),
            ]
            lines += [("engine", "sql", key, "select 1"), ("engine", "precompute", key, "-o", "new")]
            lines += [("engine", "status", key), ("engine", "precompute", str(recipe), "-o", key)]
            lines += [("trainer", "compare", key), ("trainer", "eval", run, key), ("trainer", "eval", key)]
            lines += [("engine", "precompute", str(recipe), "-o", "new", "--set", f"prompts.source={key}")]
            for setting in (key, f"{key}=1", f"judge.base_url={key}", f"judge.n={key}", f"x.api_key={key}"):
                lines.append(("engine", "precompute", str(recipe), "-o", "new", "--set", setting))
                lines.append(("engine", "status", run, "--set", setting))
                lines.append(("trainer", "run", str(recipe), "-o", run, "--set", setting))
            for program, *words in lines:
                with trial(f"{program} {words}"):
                    done = CliRunner().invoke(programs[program], words)
                    assert done.exit_code != 0
                    assert not any(part in done.output for part in PARTS), done.output
        keeping.unlink()
        with trial("files"):
            for name, content in tree(tmp_path).items():
                assert not any(part.encode() in content for part in PARTS), name


def test_a_key_of_the_environment_is_left_out_of_errors(monkeypatch, capsys):
    """A server may repeat the key that it was sent."""
    monkeypatch.setenv("JUDGE_API_KEY", "quite-unlike-a-key")
    with pytest.raises(SystemExit), exit_on_user_error(""):
        raise UserError("the server says: invalid key quite-unlike-a-key")
    assert capsys.readouterr().err == "error: the server says: invalid key (not shown)\n"


def test_the_history_is_the_users_alone(tmp_path, trials):
    """Mode 0600, never through a link, and no line that holds a key."""
    import readline

    from engine.commands import prompt

    history = tmp_path / "sql_history"
    other = tmp_path / "other"
    other.write_text("mine\n")
    readline.clear_history()
    with trials("the history of the prompt") as trial:
        with trial("no link is followed"):
            history.symlink_to(other)
            prompt._read_history(history)
            assert readline.get_current_history_length() == 0
            readline.add_history("select 1;")
            readline.add_history(f"select '{KEYS[0]}';")
            prompt._write_history(history)
            assert other.read_text() == "mine\n"
            assert not history.is_symlink()
        with trial("mode"):
            assert stat.S_IMODE(history.stat().st_mode) == 0o600
        with trial("keys"):
            assert history.read_text() == "select 1;\n"
        with trial("it comes back"):
            readline.clear_history()
            prompt._read_history(history)
            assert readline.get_history_item(1) == "select 1;"
        with trial("a pipe does not block"):
            pipe = tmp_path / "pipe"
            os.mkfifo(pipe)
            prompt._read_history(pipe)
    readline.clear_history()
    assert sorted(os.listdir(tmp_path)) == ["other", "pipe", "sql_history"]
