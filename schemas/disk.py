"""Files and folders on a disk: written whole or not at all, never through a link.

- A temporary name is hidden, has a random token and is made exclusively: nobody else has such a name, so
  what a killed process left can be told from a user's file.
- A link, a pipe, a socket or a device within a run is refused without being opened. A run folder may come
  from someone else: what is written in it must not end up elsewhere, and what is read must not block.
- An error of the system names the file or folder that it is about.
"""

import contextlib
import errno
import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from schemas.errors import UserError
from schemas.printable import printable

Fill = Callable[[Path], object]

_TEMPORARY = re.compile(r"\.prefmill-[0-9a-f]{32}\.tmp")
# How libraries written in Rust tell of an error of the system.
_SAID_IN_WORDS = re.compile(r"\(os error (\d+)\)")
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def temporary_name() -> str:
    """A name that no other process and no user has."""
    return f".prefmill-{secrets.token_hex(16)}.tmp"


def is_temporary(name: str) -> bool:
    """True for the names that `temporary_name` gives."""
    return _TEMPORARY.fullmatch(name) is not None


def check_name(folder: object, name: str) -> None:
    """Raise UserError unless the name is one of something directly in the folder."""
    if name in ("", ".", "..") or "/" in name or "\0" in name or (os.altsep and os.altsep in name):
        raise UserError(
            f"{folder}: {name!a} is not the name of a file or folder in it; expected a plain name "
            "without a path. A file of the run was changed or is not ours: run `engine precompute` again in "
            "another folder (-o)"
        )


def state_of(path: Path) -> os.stat_result | None:
    """What lies at a path of a run; None where nothing does. Raises UserError for a link or a device."""
    try:
        state = os.lstat(path)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise no_folder(path) from None
    for is_kind, what in _KINDS:
        if is_kind(state.st_mode):
            raise UserError(
                f"{printable(str(path))} is {what}; a run folder holds only files and folders, and nothing "
                "is read or written through a link: remove it, or put what it leads to in its place, and run "
                "the same command again"
            )
    return state


def is_a_folder(path: Path) -> UserError:
    """The error for a folder in the place of a file."""
    return UserError(
        f"{printable(str(path))} is a folder where prefmill keeps a file: "
        "move it away, then run the same command again"
    )


def no_folder(path: Path) -> UserError:
    """The error for what lies in the place of a folder, at the path or above it."""
    place = path
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    name = printable(str(place))
    if place.is_symlink():
        what = f"{name} is a link that leads to no folder: remove it or take another folder"
    elif place.is_file():
        what = f"{name} is a file where prefmill keeps a folder: move it away or take another folder"
    else:
        return UserError(f"{name} is no folder: name one that is, or that is still to be made")
    return UserError(f"{what}, then run the same command again")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the system name the path, unless it names a file that the user knows."""
    try:
        yield
    except OSError as error:
        raise _named(error, path) from error.__cause__
    except UserError:
        raise
    except Exception as error:
        said = _SAID_IN_WORDS.search(str(error))
        if said is None:
            raise
        number = int(said[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def _named(error: OSError, path: Path) -> OSError:
    """The error with a path: a temporary name or none at all tells the user nothing."""
    known = error.filename
    if isinstance(known, str | bytes | os.PathLike):
        parts = Path(os.fsdecode(known)).parts
        if not any(map(is_temporary, parts)):
            return error
    number = error.errno or errno.EIO
    words = error.strerror or str(error)
    return OSError(number, words, str(path))


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each forced into the one that holds it."""
    if path.is_dir():
        return
    with naming(path):
        if path.parent != path:
            make_folder(path.parent)
        try:
            path.mkdir(exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise no_folder(path) from None
        with contextlib.suppress(PermissionError):  # a folder that may be passed through and not listed
            sync(path.parent)


@contextlib.contextmanager
def written(path: Path, fill: Fill) -> Iterator[Path]:
    """Fill a temporary file beside `path` and force it to the disk; on leaving, force the folder."""
    make_folder(path.parent)
    temporary = path.with_name(temporary_name())
    with naming(path):
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
            fill(temporary)
            sync(temporary)
            yield temporary
        finally:
            _discard(temporary)
        sync(path.parent)


def write_folder(path: Path, fill: Fill) -> None:
    """Fill a temporary folder, force all of it to the disk and put it in the place of the one there is."""
    make_folder(path.parent)
    temporary = path.with_name(temporary_name())
    with naming(path):
        try:
            temporary.mkdir()
            fill(temporary)
            for inner in sorted(temporary.rglob("*")):
                sync(inner)
            sync(temporary)
            remove_folder(path)
            os.replace(temporary, path)
        finally:
            _discard(temporary)
        sync(path.parent)


def _discard(temporary: Path) -> None:
    """Remove what a write that failed has left; what cannot be removed now, a sweep removes."""
    with contextlib.suppress(OSError):
        _delete(temporary)


def _delete(path: Path) -> None:
    """Delete a file, or a folder with all in it; links are deleted, not followed."""
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        shutil.rmtree(path)
    else:
        os.unlink(path)


def remove_file(path: Path) -> None:
    """Remove a file. A folder in its place stays: it is not ours."""
    state = state_of(path)
    if state is None:
        return
    if stat.S_ISDIR(state.st_mode):
        raise is_a_folder(path)
    with naming(path), contextlib.suppress(FileNotFoundError):  # another process was faster
        os.unlink(path)


def remove_folder(path: Path) -> None:
    """Remove a folder with all in it. A removal that is cut off leaves no half of it under its name."""
    state = state_of(path)
    if state is None:
        return
    if not stat.S_ISDIR(state.st_mode):
        raise no_folder(path)
    with naming(path):
        old = path.with_name(temporary_name())
        os.rename(path, old)
        _delete(old)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder, and nothing else."""
    with naming(folder):
        for name in os.listdir(folder):
            if is_temporary(name):
                with contextlib.suppress(FileNotFoundError):  # its writer was faster
                    _delete(folder / name)


def sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    with naming(path):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read(path: Path) -> bytes:
    """A file's bytes."""
    with naming(path), open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        return file.read()


def read_range(path: Path, begin: int, length: int) -> bytes:
    """Some of a file's bytes; fewer than `length` where it ends before."""
    with naming(path), open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        file.seek(begin)
        return file.read(length)


class Lines(io.TextIOWrapper):
    """A text file to which lines are added; an error names it."""

    def __init__(self, path: Path):
        handle = open_own(path, os.O_WRONLY | os.O_APPEND)
        super().__init__(io.BufferedWriter(io.FileIO(handle, "a")), encoding="utf-8")
        self._path = path

    def flush(self) -> None:
        with naming(self._path):
            super().flush()

    def close(self) -> None:
        with naming(self._path):
            super().close()


def open_own(path: Path, flags: int) -> int:
    """Open a file to change it, made where there is none.

    One that also lies elsewhere (a hard link, as `cp -al` makes) is copied first: the other must not change
    with it."""
    state = state_of(path)
    if state is not None and stat.S_ISREG(state.st_mode) and state.st_nlink > 1:
        with written(path, lambda own: shutil.copyfile(path, own)) as own:
            os.replace(own, path)
    return open_or_make(path, flags)


def open_or_make(path: Path, flags: int) -> int:
    """Open a file, made where there is none. Raises UserError where a folder is there."""
    state = state_of(path)
    if state is not None and stat.S_ISDIR(state.st_mode):
        raise is_a_folder(path)
    with naming(path):
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
