"""What is known of the files of a folder from having read them: one memory a folder, in the user's cache.

- name, size and stamp of a file -> what reading it gave: the sha256 of a Parquet file, a marker's digest. A
  file that was written again has another stamp, so nothing here is ever wrong; deleting it costs time alone.
- One file a folder and not one a file, since a run of ten thousand shards has a hundred thousand.
- A line holds what was learnt together, with a digest of it and of the folder. Lines are appended, so
  processes do not overwrite each other's; once there are many they are written anew as one.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from schemas.digest import cache_folder, is_settled, only_we_write, sha256_file
from schemas.listing import Entry, entry_of

_LINES = 64  # after so many they become one
_Known = tuple[int, str, str]  # size and stamp of a file, and what reading it gave
_NOTHING: _Known = (-1, "", "")


def seen_in(place: str | Path) -> "Seen":
    """The memory of a folder of a disk, or of a place by its address."""
    resolved = os.path.realpath(place)
    try:
        # A home that several machines share has a memory for each of them: they know a disk of the network
        # by other numbers.
        address = f"{resolved}\0{os.stat(resolved).st_dev}"
    except OSError:
        address = str(place)
    return _seen(cache_folder() / "seen", address)


@lru_cache(maxsize=64)
def _seen(folder: Path, address: str) -> "Seen":
    return Seen(folder, address)


class Seen:
    """The memory of one folder. Several threads may use it."""

    def __init__(self, folder: Path, address: str):
        self._folder = folder
        self._address = address
        self._path = folder / hashlib.sha256(address.encode()).hexdigest()
        self._known: dict[str, _Known] = {}
        self._new: dict[str, _Known] = {}
        self._lines = 0
        self._read()

    def known(self, entry: Entry) -> str | None:
        """What reading the file gave, if it is as it was then."""
        size, stamp, value = self._known.get(entry.name, _NOTHING)
        return value if size == entry.size and stamp == entry.stamp else None

    def unknown(self, entries: Iterable[Entry], values: Iterable[str]) -> list[int]:
        """The places of the files of which reading did not give these values, as far as is known."""
        places: list[int] = []
        get = self._known.get
        for place, (entry, value) in enumerate(zip(entries, values, strict=True)):
            if get(entry.name, _NOTHING) != (entry.size, entry.stamp, value):
                places.append(place)
        return places

    def note(self, entry: Entry, value: str) -> None:
        """Remember what reading the file gave. The entry is from before it was read, and is settled."""
        kept = (entry.size, entry.stamp, value)
        self._known[entry.name] = kept
        self._new[entry.name] = kept

    def write(self) -> None:
        """Write down what is new; a home that cannot be written must not stop the run."""
        new, self._new = self._new, {}
        if not new:
            return
        with contextlib.suppress(OSError):
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if not only_we_write(self._folder):
                return
            if self._lines < _LINES:
                self._append(new)
            else:
                self._write_all()

    def _append(self, new: dict[str, _Known]) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self._path, flags, 0o600), "ab", buffering=0) as file:
            file.write(self._line(new))  # at once, so that lines of two processes do not mix
        self._lines += 1

    def _write_all(self) -> None:
        handle, temporary = tempfile.mkstemp(dir=self._folder)
        with open(handle, "wb") as file:
            file.write(self._line(self._known))
        os.replace(temporary, self._path)
        self._lines = 1

    def _line(self, known: dict[str, _Known]) -> bytes:
        body = json.dumps(known, separators=(",", ":")).encode()
        return self._check(body) + b" " + body + b"\n"

    def _check(self, body: bytes) -> bytes:
        return hashlib.sha256(self._address.encode() + b"\0" + body).hexdigest().encode()

    def _read(self) -> None:
        if not only_we_write(self._folder):
            return
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(self._path, flags), "rb") as file:
                lines = file.read().split(b"\n")
        except OSError:
            return
        for line in lines:
            check, _, body = line.partition(b" ")
            if body and check == self._check(body):
                for name, (size, stamp, value) in json.loads(body).items():
                    self._known[name] = (size, stamp, value)
                self._lines += 1


def digest_of(path: Path) -> str:
    """The sha256 of a file of a folder that is on a disk, remembered."""
    memory = seen_in(path.parent)
    entry = entry_of(path.name, path.stat())
    known = memory.known(entry)
    if known is not None:
        return known
    settled = is_settled(entry.changed)
    digest = sha256_file(path)
    if settled:
        memory.note(entry, digest)
    return digest
