"""The terminal by `rich`, in one place: who draws on it, in which styles, whether anything may move on it.

Nothing here reads markup: a text from outside is put into a Text, printable, so it brings no style and no
command. rich is imported when something is drawn, so a command that only prints lines does without it.
"""

import contextlib
import importlib.util
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from schemas import screen
from schemas.printable import one_line
from schemas.redaction import redacted

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

# What is drawn -> how.
STYLES = {
    "name": "bold",
    "quiet": "dim",
    "bar.complete": "cyan",
    "bar.finished": "cyan",
    "bar.pulse": "cyan",
    "bar.back": "bright_black",
    "markdown.code": "bold cyan",  # with no background: the terminal may be dark or light
}
# Nothing in a text is read as a style, a picture or a number.
_AS_IT_STANDS: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False, "force_jupyter": False}


def console_on(stream: TextIO) -> "Console":
    """Who draws on a stream: without colours where it has none, and in ASCII where it has no more."""
    from rich.console import Console
    from rich.theme import Theme

    class WithCursor(Console):
        """Does not hide the cursor: a process that is killed would leave the terminal without one."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    has_colours = screen.has_colours(stream)
    return WithCursor(
        file=stream,
        theme=Theme(STYLES),
        force_terminal=stream.isatty(),
        force_interactive=can_move(stream),
        no_color=not has_colours,
        color_system="auto" if has_colours else None,
        **_AS_IT_STANDS,
    )


class _Forgiving:
    """A stream on which nothing is lost where it cannot be written: a bar must not end the work behind it."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, written: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(written)
        return len(written)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def can_move(stream: TextIO | None) -> bool:
    """Whether what was drawn on a stream can be drawn anew: a terminal that is no dumb one."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def shows_bars() -> bool:
    """Whether progress is shown as bars: on a terminal, unless --quiet keeps progress away.

    A machine that only trains may lack rich; then it prints lines, as without a terminal."""
    wanted = can_move(sys.stderr) and screen.shows_progress()
    return wanted and importlib.util.find_spec("rich") is not None


def as_text(drawing: "RenderableType", width: int) -> str:
    """A drawing as text for standard output, in colours where it has some; no line break at its end."""
    from rich.console import Console
    from rich.theme import Theme

    has_colours = screen.has_colours(sys.stdout)
    console = Console(
        file=io.StringIO(),
        width=width,
        theme=Theme(STYLES),
        force_terminal=has_colours,
        no_color=not has_colours,
        color_system="standard" if has_colours else None,
        **_AS_IT_STANDS,
    )
    with console.capture() as captured:
        console.print(drawing)
    return captured.get().rstrip("\n")


def text(words: object, style: str = "") -> "Text":
    """Words from anywhere as one line to be drawn: printable, without keys, without markup."""
    from rich.text import Text

    return Text(screen.encodable(one_line(redacted(str(words)))).replace("\t", " "), style=style)


@contextmanager
def drawn(live: "Live") -> Iterator[None]:
    """Within, something moves on the terminal; lines that are printed meanwhile stand above it."""
    from rich.text import Text

    def print_above(lines: str) -> None:
        line = Text.from_ansi(lines.removesuffix("\n"))
        # No break of our own: whoever copies a path or a command copies it whole.
        live.console.print(line, soft_wrap=True)

    stream = sys.stderr
    handlers = _handlers_on(stream)
    with live, screen.lines_above(print_above):
        for handler in handlers:
            handler.setStream(sys.stderr)  # what rich has put in its place
        try:
            yield
        finally:
            for handler in handlers:
                handler.setStream(stream)


def _handlers_on(stream: TextIO) -> "list[logging.StreamHandler[Any]]":
    """Who writes the log lines of libraries to a stream; they keep it, whatever takes its place."""
    found: list[logging.StreamHandler[Any]] = []
    loggers = (logging.getLogger(), *logging.root.manager.loggerDict.values())
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and vars(handler).get("stream") is stream:
                found.append(handler)
    return found


def live(draw: "Callable[[int], RenderableType]", stream: TextIO) -> "Live":
    """Something that is drawn anew four times a second, and taken away at the end.

    `draw` gives it for a terminal of so many columns; it is asked from a thread of its own.

    What libraries write to the error output meanwhile stands above it."""
    from rich.live import Live

    console = console_on(cast(TextIO, _Forgiving(stream)))
    return Live(
        console=console,
        get_renderable=lambda: draw(console.width),
        transient=True,
        redirect_stdout=False,  # it may be a file, while the bar is on the error output
        redirect_stderr=stream is sys.stderr,
    )
