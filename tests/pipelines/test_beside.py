"""The engine's half in a process of its own: what ends it, what ends with it, and what is said of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Both halves in place of the real ones: each says in a file that it is at work.
PROGRAM = """
import os, sys, time
from pathlib import Path
from pipelines.beside import beside, pays
from schemas.errors import NothingMade, UserError, exit_on_user_error

folder, what = Path(sys.argv[1]), sys.argv[2]

def wait():
    try:
        time.sleep(60)
    finally:
        (folder / "cleaned").write_text("")

def no_memory():
    os.kill(os.getpid(), 9)

def nothing():
    raise NothingMade("nothing was made: so it is")

def work():
    (folder / "work").write_text(str(os.getpid()))
    {"wait": wait, "no memory": no_memory, "nothing": nothing, "well": lambda: None}[what]()

def load():
    (folder / "load").write_text(str(os.getpid()))

if __name__ == "__main__":
    assert pays()
    with exit_on_user_error("all is kept"):
        beside(work, load, "all is kept")
        print("both are done")
"""


def start(folder: Path, what: str) -> subprocess.Popen:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    return subprocess.Popen(
        [sys.executable, str(program), str(folder), what],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def is_there(pid: int) -> bool:
    """True while a process runs; one that ended and is not yet waited for is not there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.02)


two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one core")


@two_cores
@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("well", 0, "both are done\n"),
        ("nothing", 3, "error: nothing was made: so it is\n"),
        ("no memory", 1, "ended by SIGKILL"),
    ],
)
def test_both_halves_run_and_a_failure_is_said_once(tmp_path, what, code, said):
    process = start(tmp_path, what)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert said in output and output.count("\n") == 1
    assert int((tmp_path / "load").read_text()) == process.pid != int((tmp_path / "work").read_text())


@two_cores
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_program_ends_both_cleanly(tmp_path, number):
    process = start(tmp_path, "wait")
    until((tmp_path / "load").exists)
    until((tmp_path / "work").exists)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert output == "\nstopped; all is kept\n"
    assert (tmp_path / "cleaned").exists()
    assert not is_there(int((tmp_path / "work").read_text()))


@two_cores
def test_the_work_ends_with_a_program_that_is_killed(tmp_path):
    process = start(tmp_path, "wait")
    until(lambda: (tmp_path / "load").exists() and (tmp_path / "work").exists())
    working = int((tmp_path / "work").read_text())
    process.kill()
    process.communicate()
    until(lambda: not is_there(working))
    assert (tmp_path / "cleaned").exists()
