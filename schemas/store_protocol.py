"""What every store of run folders does; `schemas/store.py` says what stores are for, and opens them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TextIO

from schemas.listing import Entry


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

    def on_disk(self) -> "Store":
        """This folder for a writer that needs local paths: itself where it is on a local disk."""
        ...

    def listing(self, name: str = "") -> list[str] | None:
        """All names in a folder, hidden ones too; None where there is no folder of the name."""
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

    def local_file(self, name: str, sha256: str, *, afresh: bool = False) -> Path:
        """A local path to a file that should have this sha256, from a cache where the store is far away.

        What is at the path may have another one. `afresh`: not from the cache. Raises FileNotFoundError."""
        ...

    def local_files(self, names: Sequence[str], sha256s: Sequence[str]) -> list[Path]:
        """Local paths to many files whose digests are these, by `digest_of`; several are fetched at a time.

        Raises UserError where what is fetched has another digest."""
        ...

    def digest_of(self, name: str) -> str:
        """The sha256 of a file, as it was taken last where nothing says that the file was changed since."""
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

    def lock(self, who: str) -> AbstractContextManager[object]:
        """Hold an exclusive lock on the folder; it is released if the process dies.

        Raises UserError where another process holds it."""
        ...
