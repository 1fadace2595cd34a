"""Large libraries loaded sooner.

Loading torch and transformers makes some hundred thousand objects, none of which is garbage. Python's garbage
collector looks through all of them again and again meanwhile: a sixth of the time.
"""

import contextlib
import gc
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
