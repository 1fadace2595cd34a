"""Files of runs on object storage, kept in the user's cache folder under the sha256 of their bytes.

    objects/ab/ab12…    a file whose bytes have that sha256

A file gets its name once its digest was taken, by a rename: so several processes share the folder, and
whichever comes last puts the same bytes there. One that was changed since is not used and is fetched again.
Nothing is removed by itself: the folder may be deleted whenever no command is at work.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from schemas.digest import cache_folder, content_digest, sha256_file
from schemas.disk import naming, temporary_name

_SECONDS_OF_LEFTOVERS = 86_400  # of what a killed process left half written


def path_of(sha256: str) -> Path:
    """Where a file of this digest is kept, whether it is there or not."""
    return cache_folder() / "objects" / sha256[:2] / sha256


def found(sha256: str) -> Path | None:
    """The file of this digest, if it is there and its bytes are still those."""
    path = path_of(sha256)
    try:
        return path if content_digest(path) == sha256 else None
    except OSError:
        return None


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A path to fill, on the disk of the cache; removed on leaving if it is still there."""
    path = _temporaries() / temporary_name()
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder to fill, on the disk of the cache; removed on leaving."""
    path = _temporaries() / temporary_name()
    with naming(path):
        path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _temporaries() -> Path:
    folder = cache_folder() / "objects" / "filling"
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def keep(filled: Path, sha256: str) -> Path:
    """Move a file whose digest was taken into the cache."""
    path = path_of(sha256)
    with naming(path):
        path.parent.mkdir(exist_ok=True)
        os.replace(filled, path)
    return path


def fetched(download: Callable[[Path], object]) -> Path:
    """The file that `download` fills, kept under the digest that its bytes have."""
    with temporary() as path:
        with naming(path):
            download(path)
        return keep(path, sha256_file(path))


def sweep() -> None:
    """Remove what killed processes left half written a day ago or earlier."""
    folder = _temporaries()
    for name in os.listdir(folder):
        path = folder / name
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _SECONDS_OF_LEFTOVERS:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
