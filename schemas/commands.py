"""What the command lines share: a group that loads its commands lazily, and errors in one sentence.

`--help` must not wait for torch, so a command's module imports what it needs inside the command.
"""

import contextlib
import functools
import importlib
import io
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from schemas import completion, screen
from schemas.errors import exit_on_user_error
from schemas.printable import one_line, printable
from schemas.redaction import redacted

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

RECIPE_ARGUMENT = click.argument("recipe", type=click.Path(dir_okay=False), shell_complete=completion.recipes)
# A location, as open_store takes it: not turned into a path here, since it need not be one.
RUN = click.argument("run", shell_complete=completion.runs)
_SETTINGS_HELP = "section.key=value, over the recipe's own; may be given several times."

Decorator = Callable[[Any], Any]


def settings_option(help_text: str = _SETTINGS_HELP, sections: Sequence[str] = ()) -> Decorator:
    """The option --set; `sections`: those whose keys Tab completes, all where none is named."""
    return click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help=help_text,
        shell_complete=completion.settings_of(sections),
    )


def run_option(help_text: str) -> Decorator:
    """The option -o for a run folder."""
    return click.option(
        "-o",
        "--output",
        "run",
        metavar="RUN",
        required=True,
        help=help_text,
        shell_complete=completion.runs,
    )


def trust_option() -> Decorator:
    """The option --trust."""
    return click.option(
        "--trust",
        is_flag=True,
        help="Run the Python, and ask the servers, that a recipe names which may be somebody else's.",
    )


def output_options(*, lines_are_result: bool = False) -> Decorator:
    """The options --quiet and --json, and where they send what the command says (schemas/screen.py).

    The command hands its result to `screen.give`. `lines_are_result`: its lines are what was asked for."""
    kept = " the result," if lines_are_result else ""
    in_place = "" if lines_are_result else "; other lines go to the error output"

    def decorate(function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def command(*args: Any, quiet: bool, as_json: bool, **rest: Any) -> Any:
            with screen.routed(quiet, as_json, lines_are_result), _logged(quiet):
                return function(*args, **rest)

        as_json = click.option(
            "--json", "as_json", is_flag=True, help=f"The result as one JSON document{in_place}."
        )
        quiet = click.option(
            "-q", "--quiet", is_flag=True, help=f"Print{kept} warnings and errors, and nothing else."
        )
        return quiet(as_json(command))

    return decorate


@contextlib.contextmanager
def _logged(quiet: bool) -> Iterator[None]:
    """Within, what the project itself logs: with --quiet warnings alone."""
    log = logging.getLogger("prefmill")
    before = log.level
    if quiet:
        log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


_NOTHING = "nothing was changed"


@contextlib.contextmanager
def printing_for_a_reader() -> Iterator[None]:
    """At the edge of a program that only prints: a reader who stops reading (`… | head`) has had enough."""
    try:
        with exit_on_user_error("nothing is kept of it"):
            yield
            sys.stdout.flush()
    except BrokenPipeError:
        screen.drop_output()


class Command(click.Command):
    """A command of ours as a program: what it prints, its usage errors too, is made fit for the screen."""

    kept = "nothing is kept of it"

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **rest: Any
    ) -> Any:
        """Run as a program; it ends with an exit status and no traceback but of our own mistakes."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **rest)
        asked = completion.asked_for(rest.get("prog_name"))
        if asked:
            sys.exit(completion.answer(self, *asked))
        screen.prepare()
        status: object = 1
        with exit_on_user_error(self.kept):
            try:
                # What goes wrong in a command is said by `invoke`; what is left here is printing help.
                with screen.naming_output():
                    status = super().main(args, standalone_mode=False, **rest)
            except click.ClickException as error:
                _say_usage_error(error)
                status = error.exit_code
            except click.Abort:
                screen.say("stopped", err=True)
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> object:
        if ctx.parent is not None:
            return super().invoke(ctx)
        try:
            with exit_on_user_error(lambda: self._what_is_kept(ctx), lambda: _words_of(ctx)):
                screen.check_output()
                return super().invoke(ctx)
        except BrokenPipeError:
            # Python would print another error when it flushes the closed pipe at its end.
            screen.drop_output()
            ctx.exit(0 if self._only_reads(ctx) else 1)

    def _what_is_kept(self, ctx: click.Context) -> str:
        return _NOTHING if self._only_reads(ctx) else self.kept

    def _only_reads(self, ctx: click.Context) -> bool:
        """Whether a command changes no run: its output may be cut off by the reader, and it is done then."""
        return False


def _words_of(ctx: click.Context) -> str:
    """A command as it was called, without its arguments."""
    return f"{ctx.info_name} {ctx.invoked_subcommand or ''}"


def _say_usage_error(error: click.ClickException) -> None:
    """Print what click says of a wrong command line: how it is used, and what is wrong with it."""
    shown = io.StringIO()
    error.show(file=shown)
    message = error.format_message()
    usage = shown.getvalue().removesuffix(f"Error: {message}\n")
    screen.say(redacted(usage), err=True, nl=False, as_it_is=True)
    screen.complain(message, word="Error:")


class Group(Command, click.Group):
    """A command line. `modules`: command -> the module with a click command `command`, imported lazily.

    `kept`: what Ctrl-C leaves behind, for the user. `readers`: the commands that change no run; their output
    may be cut off by the reader (`engine sql … | head`), and they are done then; any other command that is
    cut off is not done."""

    def __init__(
        self, *, modules: Mapping[str, str], kept: str, readers: tuple[str, ...] = (), **rest: object
    ):
        super().__init__(**rest)  # type: ignore[arg-type]
        self._modules = modules
        self.kept = kept
        self._readers = readers

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._modules:
            return None
        command = importlib.import_module(self._modules[cmd_name]).command
        assert isinstance(command, click.Command)
        return command

    def _only_reads(self, ctx: click.Context) -> bool:
        return ctx.invoked_subcommand in self._readers


class _Lines(logging.Formatter):
    """Log lines fit for the screen: no keys, nothing that a terminal obeys, one line for a message.

    A warning is shown with the line of the code below it, as Python gives it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        message = super().formatMessage(record)
        return message if record.name == "py.warnings" else one_line(message)

    def format(self, record: logging.LogRecord) -> str:
        return printable(redacted(super().format(record)))


class _OnScreen(logging.StreamHandler[Any]):
    """Log lines among the others: above a bar, where one is on the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            screen.say(self.format(record), err=True, as_it_is=True)
        except Exception:
            self.handleError(record)


def log_to_screen() -> None:
    """Show what the project itself logs at INFO, and warnings of everything else, as plain lines."""
    logging.basicConfig(level=logging.WARNING, handlers=[_OnScreen()])
    for handler in logging.getLogger().handlers:
        if type(handler) in (logging.StreamHandler, _OnScreen):
            handler.setFormatter(_Lines("%(message)s"))
    logging.captureWarnings(True)
    logging.getLogger("prefmill").setLevel(logging.INFO)
