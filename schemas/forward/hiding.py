"""Packages that are installed, hidden from others that would import them for nothing.

- torchao takes half a second and prints warnings of its own wherever transformers or PEFT imports it.
- kernels lets bitsandbytes fetch code from the hub when it is imported on some CPUs. No code of the hub's is
  run here.
"""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Python is told in here that there are no such packages, but for those that are imported already."""
    absent = [name for name in packages if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
