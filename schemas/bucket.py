"""A bucket of object storage, as far as a store needs it: obstore behind a few calls whose errors are ours.

- Whole objects only: one that is written in parts is not to be seen before its last part is acknowledged.
- A request that fails is made again by obstore: 5xx, refused and dropped connections, and time-outs of what
  only reads. What breaks off in the middle of an answer is asked for again here.
- A conditional write whose answer was lost may have been done or not. So each bears a token of its own, by
  which it is recognised when it is looked for.
"""

import contextlib
import errno
import functools
import os
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from schemas.bucket_errors import is_passing, naming
from schemas.errors import TooLarge, UserError

_SHA256 = "prefmillsha256"  # of an object's bytes, in its metadata
_WRITER = "prefmillwriter"
_TRIES = 4  # for what breaks off
_PART = 16 << 20  # bytes of a part of an upload or a download
_AT_ONCE = 32  # requests
_Answer = TypeVar("_Answer")


class _Replaced(Exception):
    """An object was written again while it was read."""


@dataclass(frozen=True)
class Found:
    """An object as a listing shows it. `stamp`: another one whenever it holds other bytes."""

    key: str
    size: int
    e_tag: str
    stamp: str
    sha256: str = ""  # that the object bears of itself; only `head` tells it


@dataclass(frozen=True)
class Bucket:
    """A bucket by its address: s3://bucket, gs://bucket, az://container. Keys have no stroke at the ends."""

    address: str

    def where(self, key: str) -> str:
        """An object's address, for messages."""
        return f"{self.address}/{key}" if key else self.address

    def get(self, key: str, most_bytes: int) -> bytes:
        """An object's bytes. Raises FileNotFoundError, and UserError where it has more than `most_bytes`."""

        def get() -> bytes:
            import obstore

            answer = obstore.get(self._client(), key)
            size = answer.meta["size"]
            if size > most_bytes:
                raise TooLarge(
                    f"{self.where(key)} has {size:,} bytes, more than any file of ours of its kind: "
                    "remove it, and run the same command again"
                )
            return bytes(answer.bytes())

        return self._again(key, get)

    def get_many(self, keys: Sequence[str], most_bytes: int) -> list[bytes]:
        """The bytes of many small objects, many at a time."""
        return in_parallel(lambda key: self.get(key, most_bytes), keys)

    def get_range(self, key: str, begin: int, length: int) -> bytes:
        """Some of an object's bytes; fewer where it ends before. Raises FileNotFoundError."""
        end = min(begin + length, self.head(key).size)
        return self._range(key, begin, end) if begin < end else b""

    def _range(self, key: str, begin: int, end: int, e_tag: str = "") -> bytes:
        """Some of an object's bytes. Raises _Replaced where it is not of the version that is named."""
        import obstore
        from obstore.exceptions import PreconditionError

        options: Any = {"range": (begin, end)} | ({"if_match": e_tag} if e_tag else {})

        def get() -> bytes:
            try:
                return bytes(obstore.get(self._client(), key, options=options).bytes())
            except PreconditionError:
                raise _Replaced from None

        return self._again(key, get)

    def head(self, key: str) -> Found:
        """What an object is. Raises FileNotFoundError."""
        meta, attributes = self._again(key, lambda: self._described(key))
        found = _found(meta)
        return replace(found, sha256=attributes.get(_SHA256, ""))

    def _described(self, key: str) -> tuple[Any, dict[str, str]]:
        import obstore

        answer = obstore.get(self._client(), key, options={"head": True})
        return answer.meta, dict(answer.attributes)

    def put(self, key: str, data: bytes) -> None:
        """Write a small object."""
        import obstore

        self._again(key, lambda: obstore.put(self._client(), key, data, use_multipart=False))

    def put_path(self, key: str, path: Path, sha256: str = "") -> str:
        """Write a local file's bytes; returns the object's tag. It bears their sha256, where one is given."""
        import obstore

        attributes = {_SHA256: sha256} if sha256 else None

        def put() -> str:
            done = obstore.put(self._client(), key, path, attributes=attributes, chunk_size=_PART)
            return done["e_tag"] or ""

        return self._again(key, put)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one; of several that try it at once one succeeds."""
        return self._conditional(key, data, "create")

    def replace(self, key: str, old: bytes, new: bytes, most_bytes: int) -> bool:
        """Write an object in the place of one that holds `old`; False where it does not."""
        import obstore

        def read() -> tuple[bytes, Any]:
            answer = obstore.get(self._client(), key)
            meta = answer.meta
            data = bytes(answer.bytes()) if meta["size"] <= most_bytes else b""
            version = {"e_tag": meta["e_tag"], "version": meta["version"]}
            return data, {name: value for name, value in version.items() if value is not None}

        try:
            data, version = self._again(key, read)
        except FileNotFoundError:
            return False
        return data == old and self._conditional(key, new, version)

    def _conditional(self, key: str, data: bytes, mode: Any) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

        token = secrets.token_hex(16)
        with naming(self.where(key)):
            for number in range(_TRIES):
                try:
                    obstore.put(
                        self._client(),
                        key,
                        data,
                        mode=mode,
                        attributes={_WRITER: token},
                        use_multipart=False,
                    )
                    return True
                except (AlreadyExistsError, PreconditionError):
                    return self._is_by(key, token)
                except GenericError as error:
                    if self._is_by(key, token):
                        return True
                    if number == _TRIES - 1 or not is_passing(error):
                        raise
                    _wait(number)
        raise AssertionError("the last try returns or raises")

    def _is_by(self, key: str, token: str) -> bool:
        """True if what is there was written under this token: by the request whose answer was lost."""
        try:
            _, attributes = self._again(key, lambda: self._described(key))
            return attributes.get(_WRITER) == token
        except FileNotFoundError:
            return False

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; nothing happens for those that are not there."""
        import obstore

        if not keys:
            return
        try:
            self._again(keys[0], lambda: obstore.delete(self._client(), list(keys)))
        except FileNotFoundError:  # some servers say so
            if len(keys) > 1:
                in_parallel(lambda key: self.delete([key]), keys)

    def children(self, prefix: str) -> tuple[list[str], list[Found]]:
        """What lies directly below a prefix: the prefixes, and the objects. One listing."""
        import obstore

        answer = self._again(prefix, lambda: obstore.list_with_delimiter(self._client(), prefix or None))
        return [str(found) for found in answer["common_prefixes"]], list(map(_found, answer["objects"]))

    def below(self, prefix: str) -> list[Found]:
        """All objects below a prefix, at any depth, in order."""
        import obstore

        listed = self._again(prefix, lambda: obstore.list(self._client(), prefix or None).collect())
        return sorted(map(_found, listed), key=lambda found: found.key)

    def has_below(self, prefix: str) -> bool:
        """True if there is any object below a prefix."""
        import obstore

        def first() -> object:
            return next(iter(obstore.list(self._client(), prefix or None, chunk_size=1)), None)

        return bool(self._again(prefix, first))

    def download(self, key: str, path: Path) -> Found:
        """Write an object's bytes into a local file, all of one version. Raises FileNotFoundError."""
        for _ in range(_TRIES):
            found = self.head(key)
            with open(path, "wb") as file, contextlib.suppress(_Replaced):
                for begin in range(0, found.size, _PART):
                    file.write(self._range(key, begin, min(begin + _PART, found.size), found.e_tag))
                return found
        raise OSError(errno.ESTALE, "it is replaced faster than it is read", self.where(key))

    def _again(self, key: str, ask: Callable[[], _Answer]) -> _Answer:
        """The answer to a request, made again where it broke off."""
        with naming(self.where(key)):
            for number in range(_TRIES - 1):
                try:
                    return ask()
                except Exception as error:
                    if not is_passing(error):
                        raise
                _wait(number)
            return ask()

    def _client(self) -> Any:
        return _client(self.address, os.getpid())


def in_parallel(call: Callable[[str], _Answer], keys: Sequence[str]) -> list[_Answer]:
    """What a call gives for each key, in order, many at a time; the first error is raised."""
    if len(keys) < 2:
        return [call(key) for key in keys]
    with ThreadPoolExecutor(min(_AT_ONCE, len(keys))) as pool:
        return list(pool.map(call, keys))


def check_client(address: str) -> None:
    """Raise UserError where a bucket's address or what the environment says of it cannot be used."""
    _client(address, os.getpid())


@functools.cache
def _client(address: str, process: int) -> Any:
    """obstore's client of a bucket, which reads the environment itself. One for each process."""
    try:
        from obstore.store import from_url
    except ImportError:
        raise UserError(
            f"{address}: a run folder on object storage needs the package obstore: "
            "pip install 'prefmill[object-store]', then run the same command again"
        ) from None
    with naming(address):
        try:
            return from_url(
                address,
                client_options={
                    "connect_timeout": timedelta(seconds=10),
                    "read_timeout": timedelta(seconds=60),
                    "timeout": timedelta(minutes=10),
                    "allow_http": _allows_http(),
                },
                retry_config={"max_retries": 10, "retry_timeout": timedelta(minutes=3)},
            )
        except Exception as error:
            if "Account must be specified" in str(error):
                raise UserError(f"{address}: set AZURE_STORAGE_ACCOUNT_NAME in the environment") from None
            raise


def _allows_http() -> bool:
    """Whether the environment allows addresses without TLS, as obstore's own variables say it."""
    names = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
    return any(os.environ.get(name, "").lower() in ("true", "1") for name in names)


def _found(meta: Any) -> Found:
    e_tag = meta["e_tag"] or ""
    return Found(meta["path"], meta["size"], e_tag, f"{e_tag} {meta['last_modified'].isoformat()}")


def _wait(number: int) -> None:
    time.sleep(0.2 * 2**number)
