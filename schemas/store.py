"""The only code that touches a run folder.

- A store is a folder: names in it, folders below it (`child`). Everything that the project writes into a run
  goes through one: markers, manifests, facts, plans, Parquet files, the scan, checkpoints, metrics, verify's
  record.
- What is written appears whole or not at all. On a disk: bytes go to a temporary file of a name that only we
  make, are forced to the disk and renamed, and the folder is forced too, so that a power cut cannot undo the
  rename. What a killed process left behind, `sweep` removes.
- A name is that of something directly in the folder, so nothing that a file of a run names lies outside. The
  run's own location may be reached through links; within it there are none (`schemas/disk.py`).
- `open_store` chooses the implementation by the location. There is one, for a local folder; object storage
  would be a second class here and a line there.
"""

import contextlib
import fnmatch
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from schemas import disk, locks
from schemas.digest import sha256_file
from schemas.errors import UserError

_LOCK = ".lock"
# What is read whole is JSON, TOML and metrics. More than this is none of ours, and would fill the memory.
_MOST_BYTES = 1 << 30


class Store(Protocol):
    """A folder of a run. Names are of things in it; `str(store)` is its location for messages.

    Raises UserError for what is not such a name, and for links, pipes and devices; an OSError has a path."""

    @property
    def name(self) -> str:
        """The folder's own name."""
        ...

    def child(self, name: str) -> "Store":
        """A folder below this one, whether it exists or not."""
        ...

    def names(self, pattern: str = "*") -> list[str]:
        """The names here that match a shell pattern, sorted; hidden ones are left out, ours among them."""
        ...

    def exists(self, name: str = "") -> bool:
        """True if there is a file or folder of the name; without a name, if this folder is there."""
        ...

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises FileNotFoundError."""
        ...

    def size(self, name: str) -> int:
        """A file's size in bytes. Raises FileNotFoundError."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Write a whole file, in place of the one there is."""
        ...

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write a whole file unless there is one of the name; True if it was written."""
        ...

    def put_file(self, name: str, fill: Callable[[Path], object]) -> str:
        """Write a whole file that `fill` makes at a local path; returns its sha256."""
        ...

    def put_folder(self, name: str, fill: Callable[[Path], object]) -> None:
        """Write a whole folder that `fill` makes at a local path, in place of the one there is."""
        ...

    def append(self, name: str) -> TextIO:
        """Open a text file to add lines at its end. A line may be cut off by a kill."""
        ...

    def local_path(self, name: str = "") -> Path:
        """A local path to a file or folder, for a reader that needs one."""
        ...

    def where(self, name: str = "") -> str:
        """Where a file or folder is, for messages."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens where there is none. Raises UserError for a folder."""
        ...

    def remove_folder(self, name: str) -> None:
        """Remove a folder with all in it, if there is one. Raises UserError for a file."""
        ...

    def sweep(self) -> None:
        """Remove what killed writers left here. Call it only where no other writer can be at work."""
        ...

    def lock(self, who: str) -> AbstractContextManager[None]:
        """Hold an exclusive lock on the folder; it is released if the process dies.

        Raises UserError where another process holds it."""
        ...


_ADDRESS = re.compile(r"(https?|ftp|s3|gs|az|abfss?|hf|hdfs)://?[^/]")  # as a Path it has one stroke


def open_store(where: "str | Path | Store") -> Store:
    """The store at a location. A store is returned as it is. Raises UserError for an address."""
    if isinstance(where, str | Path):
        if _ADDRESS.match(str(where)):
            raise UserError(f"{where}: a run folder is a folder on a disk here, and this is an address")
        return LocalStore(Path(where))
    return where


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

    def exists(self, name: str = "") -> bool:
        return self._path(name).exists()

    def read(self, name: str) -> bytes:
        size = self.size(name)
        if size > _MOST_BYTES:
            raise UserError(
                f"{self.where(name)} has {size:,} bytes, more than any file of ours of its kind: "
                "remove it, and run the same command again"
            )
        return disk.read(self._path(name))

    def size(self, name: str) -> int:
        return self._file(name).stat().st_size

    def _file(self, name: str) -> Path:
        """Where a file is or is to be. Raises UserError where a folder is there."""
        path = self._path(name)
        if path.is_dir():
            raise disk.is_a_folder(path)
        return path

    def put(self, name: str, data: bytes) -> None:
        self._publish(name, lambda path: path.write_bytes(data))

    def put_if_absent(self, name: str, data: bytes) -> bool:
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

    def where(self, name: str = "") -> str:
        return str(self.root / name)

    def remove(self, name: str) -> None:
        disk.remove_file(self._path(name))

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


def write_output(path: Path, fill: Callable[[Path], object]) -> None:
    """Write a file that a user asked for, outside any run: whole or not at all.

    What is no file, such as a named pipe or /dev/stdout, is written into; a file must not take its place."""
    if str(path).startswith("/dev/") or (path.exists() and not path.is_file()):
        with tempfile.TemporaryDirectory() as folder:
            filled = Path(folder) / "output"
            fill(filled)
            _copy_into(path, filled)
        return
    with disk.written(path, fill) as temporary:
        os.replace(temporary, path)


def _copy_into(place: Path, filled: Path) -> None:
    try:
        with open(place, "wb") as output:
            output.write(filled.read_bytes())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(place)) from None
