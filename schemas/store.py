"""The only code that touches a run folder.

- A store is a folder: names in it, folders below it (`child`). Everything that the project writes into a run
  goes through one: markers, manifests, facts, plans, Parquet files, the scan, checkpoints, metrics, verify's
  record.
- What is written appears whole or not at all. On a disk: bytes go to `NAME.PID.tmp`, are forced to the disk
  and renamed, and the folder is forced too, so that a power cut cannot undo the rename. What a killed process
  left behind, `sweep` removes.
- `open_store` chooses the implementation by the location. There is one, for a local folder; object storage
  would be a second class here and a line there.
"""

import contextlib
import fcntl
import fnmatch
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from schemas.digest import sha256_file
from schemas.errors import UserError

# Only names of our own making: the folder may hold a user's files as well.
_TEMPORARY = re.compile(r"\.\d+\.tmp$")
_LOCK = ".lock"


class Store(Protocol):
    """A folder of a run. Names are of things in it; `str(store)` is its location for messages."""

    @property
    def name(self) -> str:
        """The folder's own name."""
        ...

    def child(self, name: str) -> "Store":
        """A folder below this one, whether it exists or not."""
        ...

    def names(self, pattern: str = "*") -> list[str]:
        """The names here that match a shell pattern, sorted; hidden and temporary ones are left out."""
        ...

    def exists(self, name: str = "") -> bool:
        """True if there is a file or folder of the name; without a name, if this folder is there."""
        ...

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises FileNotFoundError."""
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
        """Remove a file or a whole folder; nothing happens where there is none."""
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
    """A store in a folder of a local (or mounted) disk."""

    root: Path

    def __str__(self) -> str:
        return self.where()

    @property
    def name(self) -> str:
        return self.root.name

    def child(self, name: str) -> "LocalStore":
        return LocalStore(self.root / name)

    def names(self, pattern: str = "*") -> list[str]:
        if not self.root.is_dir():
            return []
        names = [name for name in os.listdir(self.root) if fnmatch.fnmatchcase(name, pattern)]
        return sorted(name for name in names if not name.startswith(".") and not _TEMPORARY.search(name))

    def exists(self, name: str = "") -> bool:
        return (self.root / name).exists()

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        self._publish(name, lambda path: path.write_bytes(data))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        path = self.root / name
        if path.exists():
            return False
        with _written(path, lambda temporary: temporary.write_bytes(data)) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                if path.exists():
                    return False
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
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
        path = self.root / name
        with _written(path, fill) as temporary:
            os.replace(temporary, path)

    def put_folder(self, name: str, fill: Callable[[Path], object]) -> None:
        path = self.root / name
        temporary = _temporary(path)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        fill(temporary)
        for inner in sorted(temporary.rglob("*")):
            _sync(inner)
        _sync(temporary)
        self.remove(name)
        os.replace(temporary, path)
        _sync(path.parent)

    def append(self, name: str) -> TextIO:
        self.root.mkdir(parents=True, exist_ok=True)
        return open(self.root / name, "a")

    def local_path(self, name: str = "") -> Path:
        return self.root / name

    def where(self, name: str = "") -> str:
        return str(self.root / name)

    def remove(self, name: str) -> None:
        path = self.root / name
        if path.is_dir():
            # Renamed first: a removal that is cut off must not leave half a folder under its name.
            old = path.with_name(f"{name}.removed.{os.getpid()}.tmp")
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(path.rename(old))
        else:
            path.unlink(missing_ok=True)

    def sweep(self) -> None:
        if not self.root.is_dir():
            return
        for path in self.root.iterdir():
            if not _TEMPORARY.search(path.name):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, who: str) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / _LOCK, "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read() or "unknown"
                raise UserError(
                    f"{self}: another `{who}` (process {holder}) is at work in it; "
                    "wait for it, or take another folder"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
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
    with _written(path, fill) as temporary:
        os.replace(temporary, path)


def _copy_into(place: Path, filled: Path) -> None:
    try:
        with open(place, "wb") as output:
            output.write(filled.read_bytes())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(place)) from None


@contextlib.contextmanager
def _written(path: Path, fill: Callable[[Path], object]) -> Iterator[Path]:
    """Fill a temporary file beside `path` and force it to the disk; on leaving, force the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    fill(temporary)
    _sync(temporary)
    yield temporary
    _sync(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")


def _sync(path: Path) -> None:
    """Force a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
