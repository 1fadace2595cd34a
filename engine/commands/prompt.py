"""The prompt of `engine sql`: queries typed one after another, with a history in the user's cache folder.

Nothing that is typed ends it but Ctrl-D and `.quit`: a mistake, a query that was stopped, Ctrl-C, half a
character are all said, and it goes on.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from engine import described
from engine.ready import ready, text_of
from schemas.errors import UserError, say_error, sentence_of
from schemas.panics import Panic, panics_as_errors
from schemas.redaction import holds_secret, redacted
from schemas.screen import say
from schemas.signals import Stopped

if TYPE_CHECKING:
    from engine.query_process import QueryProcess

_HELP = (
    "begin with: select * from pairs_text limit 3; "
    "(.tables, .schema TABLE and .examples tell more; a query ends with ';', and Ctrl-D or .quit leaves)"
)
_COMMANDS = (".tables", ".schema", ".examples", ".quit")
_WORDS = "select from where group by order limit count avg join using on and or not is null describe as desc"
_HISTORY_LINES = 1000


def ask(process: "QueryProcess", timeout: float, wide: bool = False, full: bool = False) -> None:
    """Answer queries typed at a prompt, each within `timeout` seconds.

    A statement ends with ';', or is the name of a ready query. Ctrl-C drops what is typed, or stops the query
    that runs; Ctrl-D leaves. `wide`, `full`: see answers.Looks."""
    from schemas.digest import cache_folder

    history = cache_folder() / "sql_history"
    _read_history(history)
    _complete_names()
    say(_HELP)
    typed = ""
    try:
        while True:
            try:
                typed += input("   ...> " if typed else "engine> ") + "\n"
                text = typed.strip()
                if text in (".quit", ".exit"):
                    break
                if _is_whole(text):
                    typed = ""
                    with panics_as_errors():
                        _answer(process, text, timeout, wide, full)
                elif not text:
                    typed = ""
            except UserError as error:
                say_error(str(error))
            except Panic as error:
                say_error(sentence_of(error, ""))
            except UnicodeError:
                say("error: this is not UTF-8; type it again", err=True)
                typed = ""
            except Stopped:
                raise
            except KeyboardInterrupt:
                say()
                typed = ""
    except EOFError:
        say()
    finally:
        _write_history(history)


def _is_whole(text: str) -> bool:
    """Whether what is typed so far is to be answered now."""
    return text.startswith(".") or text in ready() or _ends_statement(text)


def _ends_statement(text: str) -> bool:
    """Whether the last sign is a ';' outside strings, names and comments, as DuckDB reads the text."""
    if not text.endswith(";"):
        return False
    import duckdb

    *_, (offset, _kind) = duckdb.tokenize(text)
    # DuckDB counts bytes. A string that is still open is one token up to its end.
    return bool(offset == len(text.encode()) - 1)


def _answer(process: "QueryProcess", text: str, timeout: float, wide: bool, full: bool) -> None:
    from engine import answers

    query = text.rstrip("; \n")
    if query.startswith("."):
        query = _asked_by(query)
    if query:
        try:
            rows = process.ask(text_of(query), timeout)
        except Stopped:
            raise
        except KeyboardInterrupt:
            say(err=True)
            say("the query was stopped; the tables are opened again for the next", err=True)
        else:
            say(answers.as_table(rows, answers.looks(wide, full)), as_it_is=True)


def _asked_by(dotted: str) -> str:
    """Answer a command that begins with a dot; or the query that it stands for, if it is one."""
    name, _, table = dotted.partition(" ")
    if name == ".schema" and table.strip().lower() in described.names():
        return f"describe {table.strip().lower()}"
    if name in (".tables", ".schema"):
        for found, what in described.WHAT.items():
            say(f"{found:<12} {what}")
    elif name == ".examples":
        for found, query in ready().items():
            say(f"{found:<20} {query.what}")
    else:
        say(_HELP)
    return ""


def _complete_names() -> None:
    """Let Tab complete what is typed: tables, their columns, ready queries, commands, words of SQL."""
    import readline

    known = {*_COMMANDS, *_WORDS.split(), *described.names(), *ready()}
    for name in described.names():
        known.update(described.columns_of(name))
    words = sorted(known)

    def completed(begun: str, number: int) -> str | None:
        fitting = [word for word in words if word.startswith(begun.lower())]
        return fitting[number] if number < len(fitting) else None

    readline.set_completer(completed)
    readline.set_completer_delims(" \t\n,;()=<>+-*/|'\"")
    # macOS has libedit in readline's place, whose words are others.
    is_libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")


def _read_history(path: Path) -> None:
    """Take over what was typed before; nothing where the file is a link or cannot be read."""
    import readline

    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, errors="replace") as file:
            for line in file.read().splitlines()[-_HISTORY_LINES:]:
                readline.add_history(line)


def _write_history(path: Path) -> None:
    """Keep what was typed for the user alone, but for lines that hold a key.

    A new file takes the old one's place: where that is a link, what it points to is left alone."""
    import readline

    typed: list[str] = []
    for index in range(1, readline.get_current_history_length() + 1):
        line = readline.get_history_item(index)
        if line and not holds_secret(line):
            typed.append(redacted(line))
    temporary: str | None = None
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".sql_history")  # mode 0600
        with open(handle, "w", errors="replace") as file:
            file.writelines(f"{line}\n" for line in typed[-_HISTORY_LINES:])
        os.replace(temporary, path)
        temporary = None
    if temporary is not None:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
