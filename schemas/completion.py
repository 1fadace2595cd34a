"""Tab on a command line: shipped recipes, `--set` keys and their words, run folders, ready queries.

Installed by `eval "$(_ENGINE_COMPLETE=bash_source engine)"`, which prints click's script for the shell (zsh
and fish likewise). The shell then asks the program at each Tab, so it must be quick and must never print
anything but completions: what goes wrong here completes nothing.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, add_completion_class, shell_complete

from schemas.shells import SHELLS

Items = list[CompletionItem]
Completer = Callable[[click.Context, click.Parameter, str], Items]

_MOST_FOLDERS = 500  # of a place that run folders are looked for in


def asked_for(program: str | None) -> tuple[str, str] | None:
    """The program's name and the variable by which a shell asks it for completions; None where none does."""
    name = program or Path(sys.argv[0]).name
    variable = f"_{name}_COMPLETE".replace("-", "_").replace(".", "_").upper()
    return (name, variable) if os.environ.get(variable) else None


def answer(command: click.Command, program: str, variable: str) -> int:
    """Print what the shell asks for; the exit status."""
    instruction = os.environ[variable]
    for shell in SHELLS:
        add_completion_class(shell)
    if instruction.endswith("_complete"):
        # The error output is the user's prompt.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        return shell_complete(command, {}, program, variable, instruction)
    except (Exception, KeyboardInterrupt):
        return 1


def quietly(complete: Completer) -> Completer:
    """A completer that completes nothing where it fails."""

    @functools.wraps(complete)
    def completed(context: click.Context, parameter: click.Parameter, begun: str) -> Items:
        try:
            return complete(context, parameter, begun)
        except Exception:
            return []

    return completed


def that_fit(words: Sequence[str], begun: str) -> Items:
    """The words that begin so; none that a shell would have to quote."""
    return [CompletionItem(word) for word in words if word.startswith(begun) and _needs_no_quotes(word)]


def _needs_no_quotes(word: str) -> bool:
    return all(sign.isalnum() or sign in "_-./=:,+@%" for sign in word)


@quietly
def recipes(context: click.Context, parameter: click.Parameter, begun: str) -> Items:
    """The recipes that ship, and those in the current folder; other files by the shell."""
    from schemas import extensions

    shipped = [path.stem for path in extensions.files("recipes", ".toml")]
    here = sorted(path.name for path in Path().glob("*.toml"))
    found = [] if "/" in begun else that_fit([*shipped, *here], begun)
    return found or [CompletionItem(begun, type="file")]


@quietly
def runs(context: click.Context, parameter: click.Parameter, begun: str) -> Items:
    """Run folders, a level deep, and what lies in folders that begin so; other folders by the shell."""
    if "://" in begun:
        return []
    found = list(_runs_near(begun))
    if found and all(map(_needs_no_quotes, found)):
        return [CompletionItem(name) for name in found]
    return [CompletionItem(begun, type="dir")]


def _runs_near(begun: str) -> Iterator[str]:
    folder, _, start = begun.rpartition("/")
    before = f"{folder}/" if folder or begun.startswith("/") else ""
    for name in _folders(Path(before or "."), start):
        if _is_run(Path(before) / name):
            yield before + name
            continue
        for inner in _folders(Path(before) / name, ""):
            if _is_run(Path(before) / name / inner):
                yield f"{before}{name}/{inner}"


def _folders(place: Path, start: str) -> list[str]:
    """The folders in a place whose names begin so, hidden ones only where asked for."""
    names: list[str] = []
    with contextlib.suppress(OSError), os.scandir(place.expanduser()) as entries:
        for entry in entries:
            is_shown = entry.name.startswith(start) and (start or not entry.name.startswith("."))
            if is_shown and entry.is_dir():
                names.append(entry.name)
            if len(names) >= _MOST_FOLDERS:
                break
    return sorted(names)


def _is_run(folder: Path) -> bool:
    from schemas.manifest import PLAN

    return (folder.expanduser() / PLAN).is_file()


def settings_of(sections: Sequence[str]) -> Completer:
    """Completes SECTION.KEY=VALUE of these sections; of all where none is named."""

    @quietly
    def settings(context: click.Context, parameter: click.Parameter, begun: str) -> Items:
        from schemas.sections import SECTIONS

        known = [name for name in SECTIONS if not sections or name in sections]
        name, dot, key = begun.partition(".")
        if not dot:
            names = [f"{section}." for section in known] + ["seed="]
            found = that_fit(names, begun)
            if len(found) != 1 or not found[0].value.endswith("."):
                return found
            name = found[0].value.removesuffix(".")
        if name not in known:
            return []
        key, equals, value = key.partition("=")
        if equals:
            return _values(SECTIONS[name], f"{name}.{key}=", key, value)
        return that_fit([f"{name}.{field}" for field in _keys(SECTIONS[name])], begun if dot else f"{name}.")

    return settings


def _keys(section: Any) -> list[str]:
    """What is typed behind the section's name: `key=`, and `table.` for a table of keys."""
    import dataclasses

    from schemas.fields import rules_of

    keys: list[str] = []
    for field in dataclasses.fields(section):
        is_table = field.default_factory is not dataclasses.MISSING
        if not rules_of(field).tables:
            keys.append(f"{field.name}." if is_table else f"{field.name}=")
    return keys


def _values(section: Any, before: str, key: str, begun: str) -> Items:
    """The words that a key may have, where they are known; files where it may be a path."""
    import dataclasses

    from schemas.fields import rules_of

    for field in dataclasses.fields(section):
        if field.name != key:
            continue
        rules = rules_of(field)
        words = ("true", "false") if isinstance(field.default, bool) else rules.words
        if words:
            return that_fit([before + word for word in words], before + begun)
        if rules.path is not None:
            return [CompletionItem(begun, type="file")]
    return []
