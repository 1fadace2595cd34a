"""A store in a folder of a local disk, or of one that is mounted (schemas/store.py).

Bytes go to a temporary file of a name that only we make, are forced to the disk and renamed, and the folder
is forced too, so that a power cut cannot undo the rename. What a killed process left, `sweep` removes.
"""

import contextlib
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeVar

from schemas import disk, locks, seen
from schemas.digest import sha256_file
from schemas.errors import TooLarge
from schemas.listing import Entry, entry_of

_LOCK = ".lock"
_SWAP = ".swap"  # held for the moment in which a file is compared and replaced
# What is read whole is JSON, TOML and metrics. More than this is none of ours, and would fill the memory.
_MOST_BYTES = 1 << 30
_TRIES = 10  # of a write whose temporary file is swept away
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class LocalStore:
    """A store in a folder of a local (or mounted) disk. `inside`: how many of its folders are the run's."""

    root: Path
    inside: int = 0

    def __str__(self) -> str:
        return self.where()

    @property
    def name(self) -> str:
        return self.root.name

    def _path(self, name: str) -> Path:
        """Where a thing is, once neither it nor a folder of the run on the way is a link."""
        self._check_folders()
        if not name:
            return self.root
        disk.check_name(self.root, name)
        path = self.root / name
        disk.state_of(path)
        return path

    def _check_folders(self) -> None:
        folder = self.root
        for _ in range(self.inside):
            state = disk.state_of(folder)
            if state is not None and not stat.S_ISDIR(state.st_mode):
                raise disk.no_folder(folder)
            folder = folder.parent

    def child(self, name: str) -> "LocalStore":
        return LocalStore(self._path(name), self.inside + 1)

    def names(self, pattern: str = "*") -> list[str]:
        self._check_folders()
        if not self.root.is_dir():
            return []
        with disk.naming(self.root):
            names = [name for name in os.listdir(self.root) if fnmatch.fnmatchcase(name, pattern)]
        return sorted(name for name in names if not name.startswith("."))

    def on_disk(self) -> "LocalStore":
        return self

    def listing(self, name: str = "") -> list[str] | None:
        path = self._path(name)
        if not path.is_dir():
            return None
        with disk.naming(path):
            return sorted(os.listdir(path))

    def entries(self, pattern: str = "*") -> list[Entry]:
        self._check_folders()
        if not self.root.is_dir():
            return []
        matches = re.compile(fnmatch.translate(pattern)).match if pattern != "*" else None
        found: list[Entry] = []
        with disk.naming(self.root), os.scandir(self.root) as listing:
            for item in listing:
                name = item.name
                if name[0] == "." or (matches and not matches(name)):
                    continue
                try:
                    state = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(state.st_mode):
                    found.append(entry_of(name, state))
                else:
                    disk.state_of(Path(item.path))  # refuses what is no folder either
        return sorted(found)  # by their names

    def exists(self, name: str = "") -> bool:
        return self._path(name).exists()

    def read(self, name: str) -> bytes:
        size = self.size(name)
        if size > _MOST_BYTES:
            raise TooLarge(
                f"{self.where(name)} has {size:,} bytes, more than any file of ours of its kind: "
                "remove it, and run the same command again"
            )
        return disk.read(self._path(name))

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        return [self.read(name) for name in names]

    def size(self, name: str) -> int:
        return self._file(name).stat().st_size

    def _file(self, name: str) -> Path:
        """Where a file is or is to be. Raises UserError where a folder is there."""
        path = self._path(name)
        if path.is_dir():
            raise disk.is_a_folder(path)
        return path

    def read_range(self, name: str, begin: int, length: int) -> bytes:
        return disk.read_range(self._file(name), begin, length)

    def put(self, name: str, data: bytes) -> None:
        _unless_swept(lambda: self._publish(name, lambda path: path.write_bytes(data)))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        return _unless_swept(lambda: self._put_if_absent(name, data))

    def _put_if_absent(self, name: str, data: bytes) -> bool:
        path = self._file(name)
        if path.exists():
            return False
        with disk.written(path, lambda temporary: temporary.write_bytes(data)) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                if path.exists():
                    return False
                os.replace(temporary, path)
        return True

    def replace_if(self, name: str, old: bytes, new: bytes) -> bool:
        path = self._file(name)
        disk.make_folder(self.root)
        with locks.briefly(self._path(_SWAP)):
            try:
                seen = disk.read(path)
            except FileNotFoundError:
                return False
            if seen != old:
                return False
            self.put(name, new)
        return True

    def put_file(self, name: str, fill: Callable[[Path], object]) -> str:
        digest = ""

        def fill_and_hash(path: Path) -> None:
            nonlocal digest
            fill(path)
            digest = sha256_file(path)

        self._publish(name, fill_and_hash)
        return digest

    def _publish(self, name: str, fill: Callable[[Path], object]) -> None:
        """Fill a temporary file and give it the name."""
        path = self._file(name)
        with disk.written(path, fill) as temporary:
            os.replace(temporary, path)

    def put_folder(self, name: str, fill: Callable[[Path], object]) -> None:
        disk.write_folder(self._path(name), fill)

    def append(self, name: str) -> TextIO:
        path = self._path(name)
        disk.make_folder(self.root)
        return disk.Lines(path)

    def local_path(self, name: str = "") -> Path:
        return self._path(name)

    def local_file(self, name: str, sha256: str, *, afresh: bool = False) -> Path:
        return self._path(name)

    def local_files(self, names: Sequence[str], sha256s: Sequence[str]) -> list[Path]:
        return [self._path(name) for name in names]

    def digest_of(self, name: str) -> str:
        return seen.digest_of(self._file(name))

    def where(self, name: str = "") -> str:
        return str(self.root / name)

    def remove(self, name: str) -> None:
        path = self._path(name)
        swap = self._path(_SWAP)
        # Where files are compared and replaced, not in between.
        with locks.briefly(swap) if swap.exists() else contextlib.nullcontext():
            disk.remove_file(path)

    def remove_folder(self, name: str) -> None:
        disk.remove_folder(self._path(name))

    def sweep(self) -> None:
        self._check_folders()
        if self.root.is_dir():
            disk.sweep(self.root)

    @contextlib.contextmanager
    def lock(self, who: str) -> Iterator[None]:
        self._check_folders()
        disk.make_folder(self.root)
        with locks.held(self._path(_LOCK), who):
            yield


def _unless_swept(write: Callable[[], _Answer]) -> _Answer:
    """What a small write gives, made again where its temporary file is gone.

    A command that begins on a run sweeps it, while others may be about to begin."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(FileNotFoundError):
            return write()
    return write()
