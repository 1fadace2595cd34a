r"""What commands print goes through here: nothing in it commands the terminal, and no write fails in silence.

- A line may hold a row's text, a file's name or a model's answer: control characters are written by their
  numbers, a line break as `\n` (schemas/printable.py), and keys are left out (schemas/redaction.py).
- Data for a pipe or a file is passed on exactly as it is; on a terminal it is made printable as well.
- A character that the terminal's encoding lacks is written by its number, too.
- Output that cannot be written is an OSError that names it. What goes to the error output is said as well as
  can be: there is nowhere else to say it.
- Where lines go is settled once, by --quiet and --json (`routed`): nobody who says something asks for it.
- While a bar is on the terminal, lines are printed above it (`lines_above`).
"""

import contextlib
import errno
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, TextIO

import click

from schemas.documents import document
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


Printer = Callable[[str], None]  # of whole lines, with their ends
_kept: int | None = None  # standard output, while only a document may go there
_above: Printer | None = None  # prints above the bar that is on the terminal, if one is


def _to_output(lines: str) -> None:
    with naming_output():
        _put(sys.stdout, lines)


def _to_errors(lines: str) -> None:
    with contextlib.suppress(OSError):
        _put(sys.stderr, lines)


def _to_nowhere(lines: str) -> None:
    pass


def _put(stream: TextIO, lines: str) -> None:
    if _above is not None and stream.isatty():
        _above(lines)
        return
    stream.write(lines)
    stream.flush()


@dataclass(frozen=True)
class _Routes:
    """Who prints what a command says. `notes`: of progress; `gives_document`: its result is given as JSON."""

    lines: Printer = _to_output
    warnings: Printer = _to_output
    notes: Printer = _to_errors
    gives_document: bool = False


_routes = _Routes()


@contextlib.contextmanager
def routed(quiet: bool, as_json: bool, lines_are_result: bool) -> Iterator[None]:
    """Within, lines go where --quiet and --json send them.

    `lines_are_result`: what the command prints is what was asked for, as a table: --quiet keeps it, and with
    --json the document is in its place."""
    global _routes
    before = _routes
    lines: Printer = _to_output
    if as_json:
        lines = _to_nowhere if quiet or lines_are_result else _to_errors
    elif quiet and not lines_are_result:
        lines = _to_nowhere
    _routes = _Routes(
        lines=lines,
        warnings=_to_errors if quiet or as_json else _to_output,
        notes=_to_nowhere if quiet else _to_errors,
        gives_document=as_json,
    )
    try:
        with _kept_for_document() if as_json else contextlib.nullcontext():
            yield
    finally:
        _routes = before


@contextlib.contextmanager
def _kept_for_document() -> Iterator[None]:
    """Within, standard output takes what `hand_over` gives, and nothing else.

    What a user's function, a library or a worker process prints there goes to the error output."""
    global _kept
    try:
        sys.stdout.flush()
        kept = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    except (OSError, AttributeError, ValueError):  # no files: somebody reads what is printed in this process
        yield
        return
    _kept = kept
    try:
        yield
    finally:
        _kept = None
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os.dup2(kept, sys.stdout.fileno())
        os.close(kept)


@contextlib.contextmanager
def lines_above(printer: Printer) -> Iterator[None]:
    """Within, a terminal's lines are printed by `printer`, above what is drawn there."""
    global _above
    _above = printer
    try:
        yield
    finally:
        _above = None


def shows_progress() -> bool:
    """False where --quiet keeps it away."""
    return _routes.notes is not _to_nowhere


def gives_document() -> bool:
    """True where --json asks for the result as a document."""
    return _routes.gives_document


def say(
    text: object = "",
    *,
    err: bool = False,
    nl: bool = True,
    bold: bool = False,
    as_it_is: bool = False,
    is_styled: bool = False,
) -> None:
    """Print one line, without keys, to standard output, or with `err` to the error output.

    `as_it_is`: the text has lines of its own and is what was asked for; it is made printable only.
    `is_styled`: it comes from schemas/terminal.py or styled.py, which have made it printable."""
    line = str(text)
    if not is_styled:
        line = printable(line) if as_it_is else one_line(redacted(line))
    if bold and has_colours(sys.stdout):
        line = click.style(line, bold=True)
    if nl:
        line += "\n"
    printed = _to_errors if err else _routes.lines
    printed(line)


def warn(text: object) -> None:
    """Print a line that --quiet keeps: among the others, or on the error output where those are left out."""
    _routes.warnings(one_line(redacted(str(text))) + "\n")


def note(text: object) -> None:
    """Print a line on how far the work is, to the error output."""
    _routes.notes(one_line(redacted(str(text))) + "\n")


def complain(text: str, whose: str = "", word: str = "error:") -> None:
    """Print an error as one line, its first word in red where the terminal has colours.

    By click and not by rich: an error may be that no file can be opened any more, not even a module."""
    if has_colours(sys.stderr):
        word = click.style(word, bold=True, fg="red")
    _to_errors(f"{one_line(whose)}{word} {one_line(redacted(text))}\n")


def give(make: Callable[[], object]) -> None:
    """Print a command's result as one JSON document, where --json asks for it; else `make` is not called."""
    if _routes.gives_document:
        hand_over(document(make()))


def has_colours(stream: TextIO | None) -> bool:
    """Whether a stream shows colours: a terminal whose user has not switched them off."""
    is_terminal = stream is not None and stream.isatty()
    return is_terminal and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def folded(text: str, indent: int) -> list[str]:
    """A sentence as the lines that it takes on a terminal, all but the first indented; else one line."""
    if not sys.stdout.isatty():
        return [text]
    width = max(shutil.get_terminal_size().columns - 1, 2 * indent)
    return textwrap.wrap(text, width, subsequent_indent=" " * indent, break_on_hyphens=False) or [text]


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
    if _kept is not None:
        with naming_output(), os.fdopen(os.dup(_kept), "wb") as output:
            output.write((printable(text) if os.isatty(_kept) else text).encode())
        return
    if sys.stdout.isatty():
        _to_output(printable(text))
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
