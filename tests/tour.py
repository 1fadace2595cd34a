"""The README's tour: its commands are run, and what they print is compared with what stands there.

    python -m tests.tour --write      takes what is printed here into the README

Compared are the lines, with numbers to the digits shown. Not compared are times, speeds, the versions of
libraries, and the path of the clone. A line `…` stands for any lines left out.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT
from tests.pages import README, Block, Printed, blocks, printed

_HOME = "/home/me/prefmill"  # the clone's path as the README has it
_LEFT_OUT = "…"
_MASKS = (
    (re.compile(r"[\d,.]+ tokens/s"), "N tokens/s"),
    (re.compile(r"\bin [\d,.]+ (s|min)\b"), "in N s"),
    (re.compile(r"\b\d+\.\d+\.\d+(\+\w+)?\b"), "VERSION"),
)
_NUMBER = re.compile(r"(?<![\w-])-?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?![\w-])")


def clone(folder: Path) -> Path:
    """A folder that looks like a clone of the project."""
    for name in ("pipelines", "engine", "trainer", "schemas", "tests", "pyproject.toml", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def tour() -> list[Block]:
    return blocks("console", page=README)


def run(command: str, folder: Path) -> list[str]:
    """The lines that a command prints on standard output. It must succeed."""
    tools = folder / ".tools"
    tools.mkdir(exist_ok=True)
    for name in ("engine", "trainer"):
        (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {name}.cli "$@"\n')
        (tools / name).chmod(0o755)
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "python").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    env.pop("COLUMNS", None)
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    shown = done.stdout.replace(str(folder), _HOME).replace(str(ROOT), _HOME)
    return [line.rstrip() for line in shown.splitlines()]


def is_as_shown(shown: tuple[str, ...], got: list[str]) -> bool:
    """Whether what is printed is what the README shows."""
    if _LEFT_OUT not in shown:
        return len(shown) == len(got) and all(map(_same, shown, got))
    place = shown.index(_LEFT_OUT)
    head, tail = shown[:place], shown[place + 1 :]
    if len(got) < len(head) + len(tail):
        return False
    last = got[len(got) - len(tail) :]
    return all(map(_same, head, got)) and all(map(_same, tail, last))


def _same(shown: str, got: str) -> bool:
    """Two lines alike, but for what differs from run to run and for the last digit of numbers."""
    for mask, name in _MASKS:
        shown, got = mask.sub(name, shown), mask.sub(name, got)
    if _NUMBER.sub("N", shown) != _NUMBER.sub("N", got):
        # A number that is a digit longer moves the frame of a table.
        return False
    pairs = zip(_NUMBER.findall(shown), _NUMBER.findall(got), strict=True)
    return all(_near(one, other) for one, other in pairs)


def _near(one: str, other: str) -> bool:
    """Equal, or for a fraction within two units of its last digit."""
    if one == other:
        return True
    _, _, digits = one.partition(".")
    if not digits or "e" in one + other:
        return False
    return abs(float(one.replace(",", "")) - float(other.replace(",", ""))) <= 2.01 * 10.0 ** -len(digits)


def _written(entry: Printed, got: list[str]) -> str:
    """A command with what it prints, as much of it as the README has shown."""
    lines = got
    if _LEFT_OUT in entry.output:
        place = entry.output.index(_LEFT_OUT)
        after = len(entry.output) - place - 1
        lines = [*got[:place], _LEFT_OUT, *got[len(got) - after :]]
    return "\n".join([f"$ {entry.command}", *lines]) + "\n"


def write() -> None:
    """Run the tour and put what it prints into the README."""
    with tempfile.TemporaryDirectory() as name:
        folder = clone(Path(name))
        text = README.read_text(encoding="utf-8")
        for block in tour():
            new = "".join(_written(entry, run(entry.command, folder)) for entry in printed(block))
            text = text.replace(block.text, new)
        README.write_text(text, encoding="utf-8")


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    write()
