"""What the command lines share: a group that loads its commands lazily, and errors in one sentence.

`--help` must not wait for torch, so a command's module imports what it needs inside the command.
"""

import importlib
import io
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from schemas import screen
from schemas.errors import exit_on_user_error
from schemas.printable import one_line, printable
from schemas.redaction import redacted

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

RECIPE_ARGUMENT = click.argument("recipe", type=click.Path(dir_okay=False))
# A location, as open_store takes it: not turned into a path here, since it need not be one.
RUN = click.argument("run")
_SETTINGS_HELP = "section.key=value, over the recipe's own; may be given several times."

Decorator = Callable[[Any], Any]


def settings_option(help_text: str = _SETTINGS_HELP) -> Decorator:
    """The option --set."""
    return click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help=help_text)


def run_option(help_text: str) -> Decorator:
    """The option -o for a run folder."""
    return click.option("-o", "--output", "run", metavar="RUN", required=True, help=help_text)


def trust_option() -> Decorator:
    """The option --trust."""
    return click.option(
        "--trust",
        is_flag=True,
        help="Run the Python, and ask the servers, that a recipe names which may be somebody else's.",
    )


_NOTHING = "nothing was changed"


class Command(click.Command):
    """A command of ours as a program: what it prints, its usage errors too, is made fit for the screen."""

    kept = "nothing is kept of it"

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **rest: Any
    ) -> Any:
        """Run as a program; it ends with an exit status and no traceback but of our own mistakes."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **rest)
        screen.prepare()
        status: object = 1
        with exit_on_user_error(self.kept):
            try:
                # What goes wrong in a command is said by `invoke`; what is left here is printing help.
                with screen.naming_output():
                    status = super().main(args, standalone_mode=False, **rest)
            except click.ClickException as error:
                shown = io.StringIO()
                error.show(file=shown)
                message = error.format_message()
                usage = shown.getvalue().replace(message, one_line(message))
                screen.say(redacted(usage), err=True, nl=False, as_it_is=True)
                status = error.exit_code
            except click.Abort:
                screen.say("stopped", err=True)
        sys.exit(status if isinstance(status, int) else 0)


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

    def invoke(self, ctx: click.Context) -> object:
        try:
            with exit_on_user_error(
                lambda: _NOTHING if ctx.invoked_subcommand in self._readers else self.kept,
                lambda: f"{ctx.info_name} {ctx.invoked_subcommand or ''}",
            ):
                screen.check_output()
                return super().invoke(ctx)
        except BrokenPipeError:
            # Python would print another error when it flushes the closed pipe at its end.
            screen.drop_output()
            ctx.exit(0 if ctx.invoked_subcommand in self._readers else 1)


class _Lines(logging.Formatter):
    """Log lines fit for the screen: no keys, nothing that a terminal obeys, one line for a message.

    A warning is shown with the line of the code below it, as Python gives it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        message = super().formatMessage(record)
        return message if record.name == "py.warnings" else one_line(message)

    def format(self, record: logging.LogRecord) -> str:
        return printable(redacted(super().format(record)))


def log_to_screen() -> None:
    """Show what the project itself logs at INFO, and warnings of everything else, as plain lines."""
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(_Lines("%(message)s"))
    logging.captureWarnings(True)
    logging.getLogger("prefmill").setLevel(logging.INFO)
