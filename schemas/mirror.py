"""A folder of a run on object storage for a writer that needs local paths: training.

- What is on object storage is the truth. Whoever takes the folder's lock makes the copy equal to it, then
  works on the copy; what is written there is put into the bucket by the same call. What a killed process had
  not put is removed again.
- Without the lock nothing is believed of the copy: what is read is read from the bucket, and a local path
  leads to files that were compared with it just then.
- `push` puts what others wrote into the copy by its paths: it is called whenever a whole folder is put, and
  when the lock is given back. metrics.jsonl is put every few seconds and when it is closed.
- Whoever was taken for dead and has lost the lock puts and removes nothing more: before a change of what
  others may have written since, the lock is renewed. And `push` removes only what was there when the lock was
  taken, or was put since.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from schemas.bucket import Bucket
from schemas.copies import Copies
from schemas.disk import Lines, is_temporary, make_folder
from schemas.leases import LOCK, Beats, held
from schemas.listing import Entry, real_last
from schemas.local_store import LocalStore
from schemas.store_protocol import Store

_SECONDS_BETWEEN_PUTS = 5.0


def mirror_of(remote: Store, bucket: Bucket, key: str) -> "Mirror":
    """A folder on object storage, which lies below `key` in the bucket, with its local copy."""
    copies = Copies(bucket)
    return Mirror(remote, copies, key, LocalStore(copies.path(key)))


@dataclass
class _Held:
    """Whether this process holds the folder's lock, so that the copy is the one to work on.

    `known`: the keys that were there when it was taken, or were put since."""

    held: bool = False
    beats: Beats | None = None
    known: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Raise Lost where the lock is known to be lost."""
        if self.beats is not None:
            self.beats.check()

    def sure(self) -> None:
        """Raise Lost unless the lock is held and nobody takes it within the next minute."""
        if self.beats is not None:
            self.beats.sure()


@dataclass(frozen=True)
class Mirror:
    """A store on object storage that is worked on in a local copy."""

    remote: Store
    copies: Copies
    key: str
    local: LocalStore
    lease: _Held = field(default_factory=_Held)

    def __str__(self) -> str:
        return str(self.remote)

    @property
    def name(self) -> str:
        return self.remote.name

    @property
    def _read(self) -> Store:
        return self.local if self.lease.held else self.remote

    def _key(self, name: str) -> str:
        return f"{self.key}/{name}" if self.key else name

    def child(self, name: str) -> "Mirror":
        remote = self.remote.child(name)
        return Mirror(remote, self.copies, self._key(name), self.local.child(name), self.lease)

    def on_disk(self) -> "Mirror":
        return self

    def names(self, pattern: str = "*") -> list[str]:
        return self._read.names(pattern)

    def listing(self, name: str = "") -> list[str] | None:
        return self._read.listing(name)

    def entries(self, pattern: str = "*") -> list[Entry]:
        return self._read.entries(pattern)

    def exists(self, name: str = "") -> bool:
        return self._read.exists(name)

    def read(self, name: str) -> bytes:
        return self._read.read(name)

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        return self._read.read_many(names)

    def read_range(self, name: str, begin: int, length: int) -> bytes:
        return self._read.read_range(name, begin, length)

    def size(self, name: str) -> int:
        return self._read.size(name)

    def local_path(self, name: str = "") -> Path:
        return self._read.local_path(name)

    def local_file(self, name: str, sha256: str, *, afresh: bool = False) -> Path:
        return self._read.local_file(name, sha256, afresh=afresh)

    def local_files(self, names: Sequence[str], sha256s: Sequence[str]) -> list[Path]:
        return self._read.local_files(names, sha256s)

    def digest_of(self, name: str) -> str:
        return self._read.digest_of(name)

    def where(self, name: str = "") -> str:
        return self.remote.where(name)

    def put(self, name: str, data: bytes) -> None:
        self.local.put(name, data)
        self._put(self._key(name))

    def _put(self, key: str) -> None:
        """Put a copy that was changed into the bucket, while the lock is held."""
        self.lease.check()
        self.copies.put(key)
        self.lease.known.add(key)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        written = self.remote.put_if_absent(name, data)
        if written:
            self.local.put(name, data)
        return written

    def replace_if(self, name: str, old: bytes, new: bytes) -> bool:
        written = self.remote.replace_if(name, old, new)
        if written:
            self.local.put(name, new)
        return written

    def put_file(self, name: str, fill: Callable[[Path], object]) -> str:
        digest = self.local.put_file(name, fill)
        self._put(self._key(name))
        return digest

    def put_folder(self, name: str, fill: Callable[[Path], object]) -> None:
        self.local.put_folder(name, fill)
        self.lease.sure()
        self.remote.remove_folder(name)
        self.push()

    def append(self, name: str) -> TextIO:
        self.local.append(name).close()  # there from now on
        key = self._key(name)
        return _MirroredLines(self.local.local_path(name), lambda: self._put(key))

    def remove(self, name: str) -> None:
        self.lease.sure()
        self.remote.remove(name)
        self.local.remove(name)

    def remove_folder(self, name: str) -> None:
        self.lease.sure()
        self.remote.remove_folder(name)
        self.local.remove_folder(name)

    def sweep(self) -> None:
        if self.lease.held:
            self.local.sweep()
        self.remote.sweep()

    @contextlib.contextmanager
    def lock(self, who: str) -> Iterator[None]:
        with held(self.remote, LOCK, who) as beats:
            self.lease.known.clear()
            self._pull()
            self.lease.held = True
            self.lease.beats = beats
            try:
                yield
                self.push()
            finally:
                self.lease.held = False
                self.lease.beats = None

    def _pull(self) -> None:
        """Make the copy what the bucket holds."""
        copies = self.copies
        make_folder(copies.path(self.key))
        found = [item for item in copies.bucket.below(self.key) if not _is_lock(item.key)]
        wanted = {item.key for item in found}
        self.lease.known.update(wanted)
        for key in copies.files(self.key):
            if key not in wanted:
                copies.path(key).unlink()
        for folder, _, names in os.walk(copies.path(self.key), topdown=False):
            for name in filter(is_temporary, names):
                os.unlink(os.path.join(folder, name))
            if folder != str(copies.path(self.key)) and not os.listdir(folder):
                os.rmdir(folder)
        copies.fetch_all(found)

    def push(self) -> None:
        """Make the bucket hold what the copy is: changed files first, what makes a folder real after them."""
        self.lease.sure()
        copies = self.copies
        there = {item.key: item.e_tag for item in copies.bucket.below(self.key)}
        keys = {key for key in copies.files(self.key) if not _is_lock(key)}
        changed = [key for key in keys if not copies.is_current(key, there.get(key, "not there"))]
        for key in real_last(changed):
            self._put(key)
        gone = [key for key in there if key not in keys and key in self.lease.known]
        for key in reversed(real_last(gone)):
            copies.bucket.delete([key])


def _is_lock(key: str) -> bool:
    return key.rpartition("/")[2] == LOCK


class _MirroredLines(Lines):
    """Lines added to a copy, which is put at most every few seconds, and when the file is closed."""

    def __init__(self, path: Path, put: Callable[[], object]):
        super().__init__(path)
        self._put = put
        self._at = time.monotonic()

    def flush(self) -> None:
        super().flush()
        if time.monotonic() - self._at > _SECONDS_BETWEEN_PUTS:
            self._put()
            self._at = time.monotonic()

    def close(self) -> None:
        was_open = not self.closed
        super().close()
        if was_open:
            self._put()
