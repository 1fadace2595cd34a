"""Whether models and data sets of the Hub may be fetched: not by a command that only looks.

What is in the machine's cache is used in any case, as it is there.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_ALLOWED = ContextVar("fetching is allowed", default=True)


def is_allowed() -> bool:
    """True unless a command that only looks is at work."""
    return _ALLOWED.get()


@contextlib.contextmanager
def nothing_fetched() -> Iterator[None]:
    """Ask no other machine for anything while this lasts."""
    before = _ALLOWED.set(False)
    try:
        yield
    finally:
        _ALLOWED.reset(before)
