"""Large libraries loaded sooner.

Loading torch and transformers makes some hundred thousand objects, none of which is garbage. Python's garbage
collector looks through all of them again and again meanwhile: a sixth of the time.
"""

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def no_garbage() -> Iterator[None]:
    """Within, nothing is looked through for garbage; what is there at the end never is again.

    Reference counts free everything else as ever. Nested, or where the collector is off, it does nothing."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(_let_go)


def _let_go() -> None:
    """Let triton's objects be freed at the end, where it is loaded: it complains of each that is not."""
    if sys.modules.get("triton"):
        gc.unfreeze()
