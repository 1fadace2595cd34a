"""The one error that a user is meant to read: what, where, what was expected, what to do. Both command lines show it without a traceback."""

import difflib
from collections.abc import Iterable


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
