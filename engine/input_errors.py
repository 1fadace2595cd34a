"""Why a file of the input cannot be read: the system's own reason with the file's name.

A read that fails midway does not know which file it is of, and libraries do not pass every reason on.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import UserError


def not_read(path: Path | str, number: int) -> UserError:
    """The error for a file or folder of the input that the system does not give."""
    code = errno.errorcode.get(number, number)
    return UserError(
        f"{path} cannot be read: {os.strerror(number)} ({code}); "
        "make it readable, or take it out of the recipe's input, and run the same command again"
    )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Let an error of the system be one of this file or folder. That it is not there stays as it is."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise not_read(path, error.errno) from None


def reason_of_system(path: Path) -> int | None:
    """The number of the error that the system gives for the file, asked for its state and first byte."""
    try:
        with open(path, "rb", buffering=0) as file:
            os.fstat(file.fileno())
            file.read(1)
    except OSError as error:
        return error.errno
    return None


def check_source(source: str) -> None:
    """Raise UserError where the system does not say what is at a source, though something may be there."""
    try:
        os.stat(source)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return  # nothing, or a glob
    except OSError as error:
        if error.errno not in (None, errno.ENAMETOOLONG):
            raise not_read(source, error.errno or errno.EIO) from None


def check_name(path: Path, name: str) -> None:
    """Raise UserError for a file whose name is not UTF-8: rows carry it as text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{os.fspath(path)!a}: the name is not UTF-8, and each row keeps the name of its file: rename it"
        ) from None
