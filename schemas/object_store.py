"""A store in a bucket of object storage: s3://, gs://, az:// (schemas/store.py).

- A file is an object, and an object is there whole or not at all: its bytes are made in a local file, hashed,
  and put. There are no folders: one is there while something is below it.
- A folder that is put whole has a file that makes it real (`real_last`): it comes last and goes first.
  Whatever reads such a folder reads that file first.
- A file with a known sha256 is read through a cache on the local disk (schemas/object_cache.py). Any other
  that needs a local path is mirrored there (schemas/mirror.py).
- The parts of an upload that was cut off are not to be seen, and a bucket's lifecycle rule removes them.
- The folder's lock is a lease in it (schemas/leases.py): a holder that died loses it.
"""

import fnmatch
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from schemas import leases, object_cache
from schemas.bucket import Bucket, Found, check_client, in_parallel
from schemas.copies import mirrored
from schemas.digest import sha256_file
from schemas.disk import check_name
from schemas.errors import UserError
from schemas.listing import Entry, real_last
from schemas.mirror import mirror_of
from schemas.object_lines import ObjectLines
from schemas.store_protocol import Store

_ADDRESS = re.compile(r"(s3|gs|az)://?([\w.$-]+)(/.*)?", re.DOTALL)  # as a Path it has one stroke
_NAME = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")
_MOST_BYTES = 1 << 30  # of what is read whole; see schemas/local_store.py


def is_address(where: str) -> bool:
    """True for the address of a place on object storage that a run folder may be at."""
    return _ADDRESS.fullmatch(where) is not None


def object_store(where: str) -> "ObjectStore":
    """The store at an address. Raises UserError for one that can be none, or that needs what is not there."""
    found = _ADDRESS.fullmatch(where)
    assert found is not None
    scheme, name, path = found.groups()
    key = (path or "").strip("/")
    for part in key.split("/") if key else ():
        _check_name(f"{scheme}://{name}", part)
    check_client(f"{scheme}://{name}")
    return ObjectStore(Bucket(f"{scheme}://{name}"), key)


def _check_name(where: str, name: str) -> None:
    """Raise UserError for what is not the name of a thing in a folder, or no object may be named."""
    check_name(where, name)
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{where}: {name!a} is no name of an object: control characters and half characters are refused; "
            "give another name, or run `engine precompute` again in another folder (-o)"
        )


@dataclass(frozen=True)
class ObjectStore:
    """A store below a prefix of a bucket: `key`, without strokes at its ends, empty for the whole bucket."""

    bucket: Bucket
    key: str

    def __str__(self) -> str:
        return self.where()

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2] or self.bucket.address.rpartition("/")[2]

    def _key(self, name: str) -> str:
        """The key of a thing in this folder, once its name is one."""
        _check_name(self.where(), name)
        return f"{self.key}/{name}" if self.key else name

    def _folder_key(self, name: str) -> str:
        """The key of a folder in this one, or its own where there is no name."""
        return self._key(name) if name else self.key

    def child(self, name: str) -> "ObjectStore":
        return ObjectStore(self.bucket, self._key(name))

    def on_disk(self) -> Store:
        return mirror_of(self, self.bucket, self.key)

    def names(self, pattern: str = "*") -> list[str]:
        names = self.listing() or []
        return sorted(
            name for name in names if not name.startswith(".") and fnmatch.fnmatchcase(name, pattern)
        )

    def listing(self, name: str = "") -> list[str] | None:
        folders, files = self.bucket.children(self._folder_key(name))
        keys = folders + [file.key for file in files]
        return sorted({key.rpartition("/")[2] for key in keys}) or None

    def entries(self, pattern: str = "*") -> list[Entry]:
        _, files = self.bucket.children(self.key)
        found: list[Entry] = []
        for file in files:
            name = file.key.rpartition("/")[2]
            if not name.startswith(".") and fnmatch.fnmatchcase(name, pattern):
                found.append(Entry(name, file.size, file.stamp))
        return sorted(found, key=lambda entry: entry.name)

    def exists(self, name: str = "") -> bool:
        if name:
            try:
                self.bucket.head(self._key(name))
                return True
            except FileNotFoundError:
                pass
        return self.bucket.has_below(self._folder_key(name))

    def read(self, name: str) -> bytes:
        try:
            return self.bucket.get(self._key(name), _MOST_BYTES)
        except FileNotFoundError:
            self._refuse_folder(name)
            raise

    def read_many(self, names: Sequence[str]) -> list[bytes]:
        return self.bucket.get_many([self._key(name) for name in names], _MOST_BYTES)

    def size(self, name: str) -> int:
        return self._head(name).size

    def _head(self, name: str) -> Found:
        try:
            return self.bucket.head(self._key(name))
        except FileNotFoundError:
            self._refuse_folder(name)
            raise

    def _refuse_folder(self, name: str) -> None:
        """Raise UserError where a folder is in the place of a file."""
        if self.bucket.has_below(self._key(name)):
            raise UserError(
                f"{self.where(name)} is a folder where prefmill keeps a file: "
                "move it away, then run the same command again"
            )

    def read_range(self, name: str, begin: int, length: int) -> bytes:
        return self.bucket.get_range(self._key(name), begin, length)

    def put(self, name: str, data: bytes) -> None:
        self.bucket.put(self._key(name), data)

    def put_if_absent(self, name: str, data: bytes) -> bool:
        return self.bucket.create(self._key(name), data)

    def replace_if(self, name: str, old: bytes, new: bytes) -> bool:
        return self.bucket.replace(self._key(name), old, new, _MOST_BYTES)

    def put_file(self, name: str, fill: Callable[[Path], object]) -> str:
        key = self._key(name)
        with object_cache.temporary() as path:
            fill(path)
            digest = sha256_file(path)
            self.bucket.put_path(key, path, digest)
            object_cache.keep(path, digest)
        return digest

    def put_folder(self, name: str, fill: Callable[[Path], object]) -> None:
        with object_cache.temporary_folder() as folder:
            fill(folder)
            files = [path for path in folder.rglob("*") if path.is_file()]
            names = real_last([path.relative_to(folder).as_posix() for path in files])
            self.remove_folder(name)
            prefix = self._key(name)

            def put(inner: str) -> None:
                path = folder / inner
                self.bucket.put_path(f"{prefix}/{inner}", path, sha256_file(path))

            in_parallel(put, names[:-1])
            for last in names[-1:]:
                put(last)

    def append(self, name: str) -> TextIO:
        try:
            before = self.read(name)
        except FileNotFoundError:
            before = b""
        return ObjectLines(before, lambda data: self.put(name, data))

    def local_path(self, name: str = "") -> Path:
        return mirrored(self.bucket, self._folder_key(name), fetch=bool(name))

    def local_file(self, name: str, sha256: str, *, afresh: bool = False) -> Path:
        path = None if afresh else object_cache.found(sha256)
        key = self._key(name)
        return path or object_cache.fetched(lambda filled: self.bucket.download(key, filled))

    def local_files(self, names: Sequence[str], sha256s: Sequence[str]) -> list[Path]:
        digests = dict(zip(names, sha256s, strict=True))

        def local(name: str) -> Path:
            path = self.local_file(name, digests[name])
            if path != object_cache.path_of(digests[name]):
                raise UserError(
                    f"{self.where(name)}: its bytes do not have the sha256 that the object itself names: "
                    "remove it, then run the same `engine precompute` again"
                )
            return path

        return in_parallel(local, names)

    def digest_of(self, name: str) -> str:
        found = self._head(name)
        if found.sha256:
            return found.sha256
        return sha256_file(self.local_file(name, "", afresh=True))

    def where(self, name: str = "") -> str:
        return "/".join(part for part in (self.bucket.address, self.key, name) if part)

    def remove(self, name: str) -> None:
        try:
            self._head(name)
        except FileNotFoundError:
            return
        self.bucket.delete([self._key(name)])

    def remove_folder(self, name: str) -> None:
        found = self.bucket.below(self._key(name))
        keys = real_last([file.key for file in found])
        self.bucket.delete(keys[-1:])
        self.bucket.delete(keys[:-1])

    def sweep(self) -> None:
        object_cache.sweep()

    def lock(self, who: str) -> AbstractContextManager[leases.Beats]:
        return leases.held(self, leases.LOCK, who)
