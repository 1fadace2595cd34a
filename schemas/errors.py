"""The one error that a user is meant to read: what, where, what was expected, what to do.

Both command lines show it without a traceback.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator

from schemas.credentials import without_credentials

# Of two spellings: one minus the edits between them (a swap of two letters is one) over the longer one's
# length. `temprature` and `temperature` have 0.91, `adm` and `adamw` 0.6, `test_source` and `source` 0.55.
_NEAR = 0.59


class UserError(ValueError):
    """Something outside the program has to change: a recipe, a file, a flag, a model.

    Our own mistakes are `assert`s. `shared`: every rank of a training run raises the same, so one of them
    says it."""

    exit_status = 1

    def __init__(self, message: str, shared: bool = False):
        super().__init__(without_credentials(message))
        self.shared = shared


class NothingMade(UserError):
    """A run, or a stage of it, made nothing that can be used, though nothing was wrong with the recipe."""

    exit_status = 3


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the known word that is spelt nearly so, or all of them where none is."""
    from rapidfuzz.distance import OSA

    known = sorted(known)
    ranked: list[tuple[float, int, str]] = []
    for name in known:
        likeness = OSA.normalized_similarity(word.lower(), name.lower())
        ranked.append((likeness, -len(name), name))  # of words that are equally near a shorter one
    likeness, _, nearest = max(ranked, default=(0.0, 0, ""))
    if likeness >= _NEAR:
        return f"did you mean '{nearest}'?"
    return f"known are: {', '.join(known) or 'none'}"


@contextlib.contextmanager
def exit_on_user_error(kept: str) -> Iterator[None]:
    """At the edge of a command: print a UserError as one sentence and exit with 1, or 3 for NothingMade.

    Ctrl-C says what is `kept` and exits with 130. An error of the system (a full disk, a missing folder) is
    printed in its own words. Anything else is our mistake and keeps its traceback."""
    try:
        yield
    except UserError as error:
        _print_of_rank(error)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print(f"\nstopped; {kept}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        raise  # whoever reads our output has stopped reading: the command knows what that means
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(1)


def _print_of_rank(error: UserError) -> None:
    """Print an error of all ranks by the first one, an error that one rank alone may raise by that rank."""
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        print(f"error: {error}", file=sys.stderr)
    elif not error.shared:
        print(f"rank {rank}: error: {error}", file=sys.stderr)
