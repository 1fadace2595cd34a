"""The README and the pages as tests see them: their blocks, their commands, their links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

README = ROOT / "README.md"
FOLDER = ROOT / "pipelines" / "docs"
PAGES = (README, *sorted(FOLDER.glob("*.md")))
_PROGRAMS = ("engine", "trainer", "trainer.cli", "pipelines.run")
_ENDS = ("|", "&&", ";", ">")  # of a command in a line of several
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language and its text."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}: {self.text.splitlines()[0] if self.text else ''}"


def blocks(*languages: str, page: Path | None = None) -> list[Block]:
    """The blocks of these languages, in the order of the pages."""
    found: list[Block] = []
    for each in PAGES if page is None else (page,):
        for match in _FENCE.finditer(each.read_text(encoding="utf-8")):
            if not languages or match[1] in languages:
                found.append(Block(each, match[1], match[2]))
    return found


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(block: Block) -> list[str]:
    """The command lines of a block of sh or bash; a line that ends with a backslash goes on in the next."""
    joined = block.text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


@dataclass(frozen=True)
class Printed:
    """A command of a `console` block and what it prints."""

    command: str
    output: tuple[str, ...]


def printed(block: Block) -> Iterator[Printed]:
    """The commands of a `console` block, which begin with `$ `, each with the lines below it."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, *output = part.rstrip("\n").split("\n")
        while command.endswith("\\"):
            command = command[:-1] + output.pop(0)
        yield Printed(command, tuple(output))


def starts(line: str) -> list[list[str]]:
    """The words of every `engine`, `trainer` or `python -m pipelines.run` that a command line starts, also
    within a word that is a command line itself."""
    words = shlex.split(line, comments=True)
    started: list[list[str]] = []
    for place, word in enumerate(words):
        if word in _PROGRAMS and place + 1 < len(words):
            rest = words[place:]
            ends = [number for number, each in enumerate(rest) if each in _ENDS]
            started.append(rest[: ends[0]] if ends else rest)
        elif " " in word and any(f"{program} " in word for program in _PROGRAMS):
            started += starts(word.strip("[]"))
    return started
