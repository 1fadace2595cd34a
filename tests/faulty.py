"""A store that fails at its k-th write: the crash tests run through every write that there is.

A write fails in one of two ways, as a kill would leave it: with half of it in a temporary file, or after it
is written but before the writer learns of it.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import pytest

from schemas.disk import temporary_name
from schemas.listing import real_last
from schemas.store import Entry, LocalStore, Store

WAYS = ("half", "after")


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


@dataclass
class Fault:
    """Fails at the write of this number, from 1; 0 never fails and only counts."""

    number: int = 0
    way: str = "half"
    writes: list[str] = field(default_factory=list)

    def write(self, what: str, write: Callable[[], object], half: Callable[[], object]) -> object:
        """Do a write, or fail in the middle of it."""
        self.writes.append(what)
        if len(self.writes) != self.number:
            return write()
        if self.way == "half":
            half()
        else:
            write()
        raise Killed(f"{self.way} write {self.number}: {what}")


@dataclass(frozen=True)
class FaultyStore:
    """Implements Store on another store, with faults."""

    store: Store
    fault: Fault

    def __str__(self) -> str:
        return str(self.store)

    @property
    def name(self) -> str:
        return self.store.name

    def child(self, name: str) -> Store:
        return FaultyStore(self.store.child(name), self.fault)

    def names(self, pattern: str = "*") -> list[str]:
        return self.store.names(pattern)

    def on_disk(self) -> Store:
        return FaultyStore(self.store.on_disk(), self.fault)

    def listing(self, name: str = "") -> list[str] | None:
        return self.store.listing(name)

    def entries(self, pattern: str = "*") -> list[Entry]:
        return self.store.entries(pattern)

    def exists(self, name: str = "") -> bool:
        return self.store.exists(name)

    def read(self, name: str) -> bytes:
        return self.store.read(name)

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        return self.store.read_many(names)

    def read_range(self, name: str, begin: int, length: int) -> bytes:
        return self.store.read_range(name, begin, length)

    def size(self, name: str) -> int:
        return self.store.size(name)

    def local_path(self, name: str = "") -> Path:
        return self.store.local_path(name)

    def local_file(self, name: str, sha256: str, *, afresh: bool = False) -> Path:
        return self.store.local_file(name, sha256, afresh=afresh)

    def local_files(self, names: Sequence[str], sha256s: Sequence[str]) -> list[Path]:
        return self.store.local_files(names, sha256s)

    def digest_of(self, name: str) -> str:
        return self.store.digest_of(name)

    def where(self, name: str = "") -> str:
        return self.store.where(name)

    def sweep(self) -> None:
        self.store.sweep()

    def lock(self, who: str) -> AbstractContextManager[None]:
        return self.store.lock(who)

    def put(self, name: str, data: bytes) -> None:
        self._write(f"put {name}", name, lambda: self.store.put(name, data))

    def put_if_absent(self, name: str, data: bytes) -> bool:
        written = self._write(f"put if absent {name}", name, lambda: self.store.put_if_absent(name, data))
        return bool(written)

    def replace_if(self, name: str, old: bytes, new: bytes) -> bool:
        if name.startswith(("job-", "lease-")):
            # A sign of life: how many there are depends on the time that a run takes.
            return self.store.replace_if(name, old, new)
        written = self._write(f"replace if {name}", name, lambda: self.store.replace_if(name, old, new))
        return bool(written)

    def put_file(self, name: str, fill: Callable[[Path], object]) -> str:
        return str(self._write(f"put file {name}", name, lambda: self.store.put_file(name, fill)))

    def put_folder(self, name: str, fill: Callable[[Path], object]) -> None:
        def half() -> None:
            if isinstance(self.store, LocalStore):
                folder = self._temporary()
                folder.mkdir(parents=True)
                (folder / "part").write_bytes(b"half")
            else:
                _put_without_the_last(self.store, name, fill)

        what = f"put folder {self.name}/{name}"
        self.fault.write(what, lambda: self.store.put_folder(name, fill), half)

    def append(self, name: str) -> TextIO:
        return _FaultyLines(self.store.append(name), name, self.fault)  # type: ignore[return-value]

    def remove(self, name: str) -> None:
        if self.exists(name):
            self.fault.write(f"remove {self.name}/{name}", lambda: self.store.remove(name), lambda: None)

    def remove_folder(self, name: str) -> None:
        if self.exists(name):
            what = f"remove folder {self.name}/{name}"
            self.fault.write(what, lambda: self.store.remove_folder(name), lambda: None)

    def _write(self, what: str, name: str, write: Callable[[], object]) -> object:
        def half() -> None:
            if not isinstance(self.store, LocalStore):
                return  # an object that was not written whole is not to be seen
            path = self._temporary()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half")

        return self.fault.write(f"{what} in {self.name}", write, half)

    def _temporary(self) -> Path:
        """What a killed process leaves behind."""
        return self.store.local_path(temporary_name())


def _put_without_the_last(store: Store, name: str, fill: Callable[[Path], object]) -> None:
    """What a kill leaves of a folder on object storage: all but the file that makes it real."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fill(folder)
        store.remove_folder(name)
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        for file in real_last(names)[:-1]:
            *above, last = file.split("/")
            inner = store.child(name)
            for part in above:
                inner = inner.child(part)
            inner.put(last, (folder / file).read_bytes())


class _FaultyLines:
    """A text file that is appended to: a line cut off is a fault as well."""

    def __init__(self, file: TextIO, name: str, fault: Fault):
        self._file = file
        self._name = name
        self._fault = fault

    def write(self, text: str) -> int:
        def half() -> None:
            self._file.write(text[: len(text) // 2])
            self._file.flush()

        self._fault.write(f"append to {self._name}", lambda: self._file.write(text), half)
        return len(text)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def every_fault(writes: int) -> Iterator[Fault]:
    """A fault at each of so many writes, in each way."""
    for number in range(1, writes + 1):
        for way in WAYS:
            yield Fault(number, way)


@dataclass
class SystemFault:
    """Lets a call that changes something below a folder fail as the system would: without a path.

    `number`: which call, from 1; 0 never fails and only counts."""

    folder: Path
    number: int = 0
    error: int = errno.EIO
    calls: list[str] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Watch the calls until the monkeypatch is undone."""
        for name in ("open", "fsync", "replace", "rename", "link", "mkdir", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def watched(*args: object, **kwargs: object) -> object:
            if self._is_write(name, args):
                self.calls.append(f"{name} {args[0]}")
                if len(self.calls) == self.number:
                    raise OSError(self.error, os.strerror(self.error))
            return call(*args, **kwargs)

        return watched

    def _is_write(self, name: str, args: tuple[object, ...]) -> bool:
        if name == "open" and not int(str(args[1])) & os.O_CREAT:
            return False
        path = os.readlink(f"/proc/self/fd/{args[0]}") if isinstance(args[0], int) else os.fspath(args[0])  # type: ignore[arg-type, call-overload]
        return str(path).startswith(str(self.folder))
