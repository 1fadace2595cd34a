"""A library written in Rust panics where it fails on its own assumptions, as over data it was not made for.

Python gets that as an exception that is no `Exception`, so nothing that handles a library's errors would see
it: a row would end its run, a query the prompt.
"""

import contextlib
from collections.abc import Iterator

# Each of these libraries (polars, tokenizers, safetensors) has a class of its own by this name.
_NAME = "PanicException"


class Panic(RuntimeError):
    """A library in Rust panicked."""


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """Within, a panic is a Panic, which can be handled as other errors are."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != _NAME:
            raise
        lines = str(error).splitlines() or ["it gives no reason"]
        panic = Panic(f"a library could not take its input: {lines[0]}")
        raise panic.with_traceback(error.__traceback__) from None
