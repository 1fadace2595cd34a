"""Errors of the disk, with their place: the system names none for a file that is open already."""

import contextlib
from collections.abc import Iterator

from safetensors import SafetensorError

from schemas.errors import UserError

_REMEDY = "put that right and run the same command: it goes on from the last checkpoint"


@contextlib.contextmanager
def at(where: object, remedy: str = _REMEDY) -> Iterator[None]:
    """Raise what the disk refuses in here as a UserError that says where and what to do."""
    try:
        yield
    except BrokenPipeError:
        raise  # of the screen, not of the disk
    except OSError as error:
        place = where if error.filename is None else error.filename
        raise UserError(f"{place}: {error.strerror or error}: {remedy}") from None
    except SafetensorError as error:  # what safetensors raises on a full disk
        raise UserError(f"{where}: {error}: {remedy}") from None
