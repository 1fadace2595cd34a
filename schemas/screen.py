r"""What commands print goes through here: nothing in it commands the terminal, and no write fails in silence.

- A line may hold a row's text, a file's name or a model's answer: control characters are written by their
  numbers, a line break as `\n` (schemas/printable.py), and keys are left out (schemas/redaction.py).
- Data for a pipe or a file is passed on exactly as it is; on a terminal it is made printable as well.
- A character that the terminal's encoding lacks is written by its number, too.
- Output that cannot be written is an OSError that names it. What goes to the error output is said as well as
  can be: there is nowhere else to say it.
"""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from typing import IO

import click

from schemas.printable import one_line, printable
from schemas.redaction import redacted

_OUTPUT = "standard output"


def prepare() -> None:
    """Make the three standard files fit to be used, at the start of a command.

    The place of one that is closed would be taken by the next file that is opened, and what a library prints
    would go into that file."""
    for handle in (0, 1, 2):
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def check_output() -> None:
    """Raises OSError where standard output is closed, before any work is done for it."""
    if sys.stdout is None:
        closed = f"{_OUTPUT} is closed (send it to /dev/null if you do not want it)"
        raise OSError(errno.EBADF, "there is no place to print to", closed)


def say(
    text: object = "", *, err: bool = False, nl: bool = True, bold: bool = False, as_it_is: bool = False
) -> None:
    """Print one line, without keys, to standard output, or with `err` to the error output.

    `as_it_is`: the text has lines of its own and is what was asked for; it is made printable only."""
    line = printable(str(text)) if as_it_is else one_line(redacted(str(text)))
    if bold and sys.stdout.isatty():
        line = click.style(line, bold=True)
    if nl:
        line += "\n"
    if err:
        with contextlib.suppress(OSError):
            sys.stderr.write(line)
            sys.stderr.flush()
        return
    with naming_output():
        sys.stdout.write(line)
        sys.stdout.flush()


def page(text: str, *, is_styled: bool = False) -> None:
    """Print text that has lines of its own; through the user's pager where it is longer than the terminal.

    `is_styled`: it comes from schemas/styled.py, which has made it printable and given it colours."""
    lines = text.count("\n") + 1
    text = text if is_styled else printable(text)
    if not (sys.stdout.isatty() and sys.stdin.isatty()) or lines < shutil.get_terminal_size().lines:
        with naming_output():
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        return
    os.environ.setdefault("LESS", "-SR")  # a table's lines are cut off at the edge, not broken; with colours
    click.echo_via_pager(text + "\n", color=is_styled)


def hand_over(text: str) -> None:
    """Give data to whoever reads standard output: exactly, in UTF-8; to a terminal as it can be printed."""
    check_output()
    if sys.stdout.isatty():
        say(text, nl=False, as_it_is=True)
        return
    with binary_output() as output:
        output.write(text.encode())


@contextlib.contextmanager
def binary_output() -> Iterator[IO[bytes]]:
    """Standard output for bytes."""
    check_output()
    with naming_output():
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()


def encodable(text: str) -> str:
    """The text with every character that the screen's encoding lacks written by its number."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


@contextlib.contextmanager
def naming_output() -> Iterator[None]:
    """Name standard output in what goes wrong with it. A reader who went away is the command's to judge."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        raise OSError(error.errno, error.strerror, _OUTPUT) from None


def drop_output() -> None:
    """Print nowhere from here on: Python would fail once more when it flushes what could not be written."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
