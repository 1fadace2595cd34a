"""The one error that a user is meant to read: what, where, what was expected, what to do. Both command lines show it without a traceback."""

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator


class UserError(ValueError):
    """Something outside the program has to change: a recipe, a file, a flag, a model. Our own mistakes are `assert`s.

    `shared`: every rank of a training run raises the same, so one of them is enough to say it."""

    def __init__(self, message: str, shared: bool = False):
        super().__init__(message)
        self.shared = shared


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence naming the nearest known word, or all of them where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(known) or 'none'}"


@contextlib.contextmanager
def in_one_sentence(kept: str) -> Iterator[None]:
    """At the edge of a command: a UserError is one clear sentence, on rank 0 alone; Ctrl-C says what is `kept`; anything else is our mistake and
    keeps its traceback."""
    try:
        yield
    except UserError as error:
        # What all ranks found is said once, by the first; what one alone may have found (a file, a device) each says.
        rank = os.environ.get("RANK", "0")
        if rank == "0" or not error.shared:
            print(f"error: {error}" if rank == "0" else f"rank {rank}: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"\nstopped; {kept}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        raise  # whoever read us has seen enough: the command knows what that means
    except OSError as error:
        # Disks and folders: full, read-only, not there. The system's words with the path are the clearest there are.
        print(
            f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}",
            file=sys.stderr,
        )
        sys.exit(1)
