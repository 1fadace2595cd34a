"""Local copies of objects, for readers that need a local path.

    mirrors/1a2b…/files/KEY   a copy, in the user's cache folder
    mirrors/1a2b…/index/KEY   which version of the object it is, and the file's state when it was copied

A copy is used again while the object is of that version and the file was not changed.
"""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.bucket import Bucket, Found, in_parallel
from schemas.digest import cache_folder
from schemas.disk import is_temporary, make_folder, naming, temporary_name

# What tells two buckets of one name apart.
_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ENDPOINT",
    "GOOGLE_BASE_URL",
)


@dataclass(frozen=True)
class Copies:
    """The local copies of a bucket's objects."""

    bucket: Bucket

    def _root(self) -> Path:
        named = [self.bucket.address, *(os.environ.get(name, "") for name in _ENDPOINTS)]
        digest = hashlib.sha256("\n".join(named).encode()).hexdigest()[:16]
        return cache_folder() / "mirrors" / digest

    def path(self, key: str) -> Path:
        return self._root() / "files" / key if key else self._root() / "files"

    def _entry(self, key: str) -> Path:
        return self._root() / "index" / key

    def _state(self, key: str, e_tag: str) -> bytes:
        found = self.path(key).stat()
        return f"{e_tag} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}".encode()

    def is_current(self, key: str, e_tag: str) -> bool:
        """True if the copy is of this version and was not changed since."""
        try:
            return self._entry(key).read_bytes() == self._state(key, e_tag)
        except OSError:
            return False

    def note(self, key: str, e_tag: str) -> None:
        """Say which version the copy is."""
        entry = self._entry(key)
        make_folder(entry.parent)
        temporary = entry.with_name(temporary_name())
        temporary.write_bytes(self._state(key, e_tag))
        os.replace(temporary, entry)

    def fetch(self, found: Found) -> None:
        """Copy an object unless the copy is current."""
        if self.is_current(found.key, found.e_tag):
            return
        path = self.path(found.key)
        make_folder(path.parent)
        temporary = path.with_name(temporary_name())
        with naming(path):
            try:
                loaded = self.bucket.download(found.key, temporary)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        self.note(found.key, loaded.e_tag)

    def fetch_all(self, found: Sequence[Found]) -> None:
        """Copy objects, several at a time."""
        by_key = {item.key: item for item in found}
        in_parallel(lambda key: self.fetch(by_key[key]), list(by_key))

    def put(self, key: str) -> None:
        """Put a copy that was changed into the bucket."""
        self.note(key, self.bucket.put_path(key, self.path(key)))

    def files(self, key: str) -> list[str]:
        """The keys of the copies below a key; without what was not written to its end, and hidden files."""
        keys: list[str] = []
        for folder, folders, names in os.walk(self.path(key)):
            folders[:] = [name for name in folders if not is_temporary(name)]
            for name in names:
                if not is_temporary(name):
                    keys.append((Path(folder) / name).relative_to(self.path("")).as_posix())
        return sorted(keys)


def mirrored(bucket: Bucket, key: str, *, fetch: bool) -> Path:
    """A local path for a thing in a bucket. `fetch`: make what is there equal to it first.

    Raises nothing where there is no such thing: there is then nothing at the path."""
    copies = Copies(bucket)
    if fetch:
        found = bucket.below(key)
        if not found:
            with contextlib.suppress(FileNotFoundError):
                found = [bucket.head(key)]
        copies.fetch_all(found)
    return copies.path(key)
