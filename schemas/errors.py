"""The one error that a user is meant to read: what, where, what was expected, what to do.

Both command lines show it without a traceback.
"""

import contextlib
import errno
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from schemas.panics import Panic, panics_as_errors
from schemas.redaction import without_credentials
from schemas.screen import complain, say
from schemas.signals import ended_by_signals, exit_status

# Of two spellings: one minus the edits between them (a swap of two letters is one) over the longer one's
# length. `temprature` and `temperature` have 0.91, `adm` and `adamw` 0.6, `test_source` and `source` 0.55.
_NEAR = 0.59
# What data passes through: what these raise is of the data or the machine far more often than of our code.
_LIBRARIES = ("duckdb", "pyarrow", "polars", "safetensors", "safetensors_rust")
# What DuckDB says last: the line of the query, and a mark below the place.
_PLACE_IN_QUERY = re.compile(r"\n+LINE \d+: [^\n]*\n *\^+\s*\Z")
_HOUSE = Path(__file__).resolve().parent.parent
_PACKAGES = ("engine", "trainer", "schemas")
_LESS_MEMORY = (
    "take less at once (fewer --workers, more prompts.shards; in training a lower "
    "train.micro_batch_tokens; of a query fewer rows or columns), "
    "or use a machine that has more"
)
_ADVICE = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some of the quota",
    errno.EACCES: "see that you may read and write there",
    errno.EPERM: "see that you may read and write there",
    errno.EROFS: "choose a place that can be written",
    errno.EMFILE: "allow more open files (`ulimit -n`)",
    errno.ENFILE: "allow more open files",
    errno.EIO: "look at the disk",
}


class UserError(ValueError):
    """Something outside the program has to change: a recipe, a file, a flag, a model.

    Our own mistakes are `assert`s. `shared`: every rank of a training run raises the same, so one of them
    says it."""

    exit_status = 1

    def __init__(self, message: str, shared: bool = False):
        super().__init__(without_credentials(message))
        self.shared = shared


class TooLarge(UserError):
    """A file of a run that is read whole is larger than any of ours."""


class Ended(SystemExit):
    """The end of a command that has said why."""


class NothingMade(UserError):
    """A run, or a stage of it, made nothing that can be used, though nothing was wrong with the recipe."""

    exit_status = 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the known word that is spelt nearly so, or all of them where none is."""
    known = sorted(known)
    all_known = f"known are: {', '.join(known) or 'none'}"
    try:
        from rapidfuzz.distance import OSA
    except ImportError:  # training needs it for nothing else
        return all_known
    ranked: list[tuple[float, int, str]] = []
    for name in known:
        likeness = OSA.normalized_similarity(word.lower(), name.lower())
        ranked.append((likeness, -len(name), name))  # of words that are equally near a shorter one
    likeness, _, nearest = max(ranked, default=(0.0, 0, ""))
    if likeness >= _NEAR:
        return f"did you mean '{nearest}'?"
    return all_known


@contextlib.contextmanager
def exit_on_user_error(
    kept: str | Callable[[], str], doing: Callable[[], str] = lambda: ""
) -> Iterator[None]:
    """At the edge of a command: print a UserError as one sentence and exit with 1, or 3 for NothingMade.

    Ctrl-C, SIGTERM and SIGHUP say what is `kept` and exit with 128 and the signal's number. An error of the
    system (a full disk, a missing folder) is printed in its own words, and so is one of a library that data
    passes through, with its place in our code. A `sys.exit` of some other code ends nothing well: it is told
    too, with 1. `doing` names the command. Anything else is our mistake and keeps its traceback."""
    try:
        with ended_by_signals(), panics_as_errors():
            yield
    except UserError as error:
        _print_of_rank(error)
        raise Ended(error.exit_status) from None
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be gone
            say(err=True)
            say(f"stopped; {kept if isinstance(kept, str) else kept()}", err=True)
        raise Ended(exit_status()) from None
    except Ended:
        raise
    except SystemExit as error:
        say_error(_of_exit(error, doing()))
        raise Ended(1) from None
    except BrokenPipeError:
        raise  # whoever reads our output has stopped reading: the command knows what that means
    except Exception as error:
        sentence = sentence_of(error, doing())
        if not sentence:
            raise
        say_error(sentence)
        raise Ended(1) from None


def say_error(text: str, whose: str = "") -> None:
    """Print an error: one line, and below it the place in a query where DuckDB shows one."""
    place = _PLACE_IN_QUERY.search(text)
    head = text[: place.start()] if place else text
    complain(head, whose)
    for line in place[0].rstrip().lstrip("\n").split("\n") if place else ():
        say(line, err=True)


def _print_of_rank(error: UserError) -> None:
    """Print an error of all ranks by the first one, an error that one rank alone may raise by that rank."""
    rank = os.environ.get("RANK", "0")
    text = str(error)
    if rank == "0":
        say_error(text)
    elif not error.shared:
        say_error(text, f"rank {rank}: ")


def sentence_of(error: Exception, doing: str) -> str:
    """What is said of an error that is not ours; empty where it is ours."""
    while_doing = f" while `{doing}` was at work" if doing else ""
    at = f"in {_place(error)}{while_doing}"
    text = str(error).strip()
    library = type(error).__module__.split(".")[0].removeprefix("_")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory {at} ({text or 'no more can be had'}): {_LESS_MEMORY}"
    if isinstance(error, OSError):
        return _of_system(error, at)
    if isinstance(error, RecursionError):
        return f"something is nested too deeply, {at}: look at the last input that was named"
    if isinstance(error, Panic):
        return f"{error} ({at}): look at the last input that was named"
    if library in _LIBRARIES:
        return f"{library} says: {text or type(error).__name__} ({at})"
    return ""


def _of_exit(error: SystemExit, doing: str) -> str:
    """What is said where other code ended the program, which none of ours does in the middle of its work."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
    while_doing = f" while `{doing}` was at work" if doing else ""
    return (
        f"the program was ended by sys.exit({error.code!r}) in {where}{while_doing}, and its work is not "
        "done: take that call out, or look at what it says above"
    )


def _of_system(error: OSError, at: str) -> str:
    """An error of the operating system: what it is, of which file, and what to do where that is plain."""
    what = error.strerror or str(error) or type(error).__name__
    where = f"{_name(error.filename)}" if error.filename is not None else at
    if error.filename2 is not None:
        where = f"{where} to {_name(error.filename2)}"
    advice = _ADVICE.get(error.errno or 0)
    return f"{what}: {where}" + (f"; {advice}, then run the same command again" if advice else "")


def _name(file: object) -> str:
    """A file's name, which the system may know as bytes or as a number."""
    return os.fsdecode(file) if isinstance(file, bytes) else str(file)


def _place(error: Exception) -> str:
    """The line of our code that the error passed through last."""
    place = "an unknown place"
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.is_relative_to(_HOUSE) and path.relative_to(_HOUSE).parts[0] in _PACKAGES:
            place = f"{path.relative_to(_HOUSE)}:{frame.lineno}"
    return place
