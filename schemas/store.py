"""The only code that touches a run folder.

- A store is a folder: names in it, folders below it (`child`). Everything that the project writes into a run
  goes through one: markers, manifests, facts, plans, Parquet files, the scan, checkpoints, metrics, verify's
  record.
- What is written appears whole or not at all.
- A name is that of something directly in the folder, so nothing that a file of a run names lies outside. The
  run's own location may be reached through links; within it there are none (`schemas/disk.py`).
- `open_store` chooses the implementation by the location: `schemas/local_store.py` for a folder of a disk.
"""

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TextIO

from schemas import disk
from schemas.errors import UserError
from schemas.listing import Entry as Entry
from schemas.local_store import LocalStore as LocalStore


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

    def entries(self, pattern: str = "*") -> list[Entry]:
        """The files here whose names match a shell pattern, sorted, by one listing; no hidden ones."""
        ...

    def exists(self, name: str = "") -> bool:
        """True if there is a file or folder of the name; without a name, if this folder is there."""
        ...

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises FileNotFoundError."""
        ...

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        """The bytes of many small files in the order of their names; from object storage, many at once.

        Raises FileNotFoundError for the first that is not there."""
        ...

    def size(self, name: str) -> int:
        """A file's size in bytes. Raises FileNotFoundError."""
        ...

    def read_range(self, name: str, begin: int, length: int) -> bytes:
        """`length` bytes of a file from byte `begin` on; fewer where it ends before. FileNotFoundError."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Write a whole file, in place of the one there is."""
        ...

    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Write a whole file unless there is one of the name; True if it was written."""
        ...

    def replace_if(self, name: str, old: bytes, new: bytes) -> bool:
        """Write a small file in place of one that holds `old`; False where it does not: nothing is written.

        Of several that try it at once one succeeds."""
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
