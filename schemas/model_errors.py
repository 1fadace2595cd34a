"""What is said where a loader fails at a model's folder: each class of a model fails in its own way."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import UserError
from schemas.network_errors import is_of_network
from schemas.panics import panics_as_errors

_LONGEST_ERROR = 400  # letters


@contextlib.contextmanager
def usable(path: Path) -> Iterator[None]:
    """Raise UserError, which names the folder, where what a model's folder holds makes any code fail.

    Each loader and each class of a config or a tokenizer fails in its own way. Errors of ours, and of the
    network between ranks, stay what they are."""
    try:
        with panics_as_errors():
            yield
    except (UserError, AssertionError):
        raise
    except OSError as error:
        place = error.filename or path
        said = error.strerror or str(error)[:_LONGEST_ERROR]
        raise UserError(f"the model in {path} cannot be read ({place}): {said}") from None
    except Exception as error:
        if is_of_network(error):
            raise
        lines = str(error).strip().splitlines() or ["it gives no reason"]
        said = f"{type(error).__name__}: {' '.join(lines)[:_LONGEST_ERROR]}"
        raise UserError(
            f"the model in {path} cannot be used: a file of it is not what it should be ({said}); get the "
            "folder again"
        ) from None


def shown(error: object, folder: Path, path: Path) -> str:
    """The first sentence of what a loader says of a view, as if it had been given the model's folder."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    first = lines[0]
    if first.endswith(":") and len(lines) > 1:
        first = f"{first} {lines[1].strip()}"
    return first.replace(str(folder), str(path))
