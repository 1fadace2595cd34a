"""How a file becomes real, and how its content is named.

A reader never sees half a file: bytes go to `NAME.PID.tmp`, are forced to the disk, and are renamed; the folder is forced too, so that a
power cut cannot undo the rename. What was written is known by its sha256. What a killed run left behind, the next one sweeps away.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from schemas.errors import UserError

# A file changed within this many seconds of being hashed may change again without its size or time changing: not remembered.
_RACY_SECONDS = 2.0


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fingerprint(facts: object) -> str:
    """12 hex digits (48 bits) of the facts' sha256: the name of a folder."""
    return hashlib.sha256(canonical(facts)).hexdigest()[:12]


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")


def sweep(folder: Path) -> None:
    """Removes what killed writers left in a folder. Call it only where no other writer can be at work."""
    for path in folder.iterdir():
        # Only names of our own making: the folder may hold a user's files as well.
        if re.search(r"\.\d+\.tmp$", path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path, who: str) -> Iterator[None]:
    """The folder, ours alone until left; raises UserError where another process has it. A process that dies lets go of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"{folder}: another `{who}` (process {lock.read() or 'unknown'}) is at work in it; wait for it, or take another folder"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def committed(path: Path) -> Iterator[Path]:
    """Gives a path to write to; on leaving, what was written there is forced to the disk and takes the name `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    yield temporary
    sync_file(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


def commit_bytes(path: Path, data: bytes) -> None:
    with committed(path) as temporary:
        temporary.write_bytes(data)


def commit_json(path: Path, value: object) -> None:
    commit_bytes(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n")


def commit_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """As `committed`, for a whole folder: `fill` writes into a temporary one, which then takes the name `path`."""
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    fill(temporary)
    for file in sorted(temporary.rglob("*")):
        sync_file(file) if file.is_file() else sync_folder(file)
    sync_folder(temporary)
    os.replace(temporary, path)
    sync_folder(path.parent)


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefmill"


def _known(path: Path) -> tuple[Path, str, str | None]:
    """(where a file's digest is remembered, the key of its present state, the digest remembered for that state or None)."""
    stat = path.stat()
    key = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    memory = cache_folder() / "sha256" / hashlib.sha256(str(path).encode()).hexdigest()
    with contextlib.suppress(OSError, ValueError):
        known, digest = memory.read_text().rsplit(" ", 1)
        if known == key:
            return memory, key, digest
    return memory, key, None


def is_remembered(path: Path) -> bool:
    """Whether `content_digest` will answer without reading the file."""
    return _known(path.resolve())[2] is not None


def content_digest(path: Path) -> str:
    """sha256 of a file, remembered in the user's cache folder by path, size and time of change: 100 GB of weights are read once, not per run."""
    path = path.resolve()
    memory, key, known = _known(path)
    if known:
        return known
    digest = sha256_file(path)
    if time.time() - path.stat().st_mtime > _RACY_SECONDS:
        # The cache only saves time: a home that cannot be written must not stop the run.
        with contextlib.suppress(OSError):
            memory.parent.mkdir(parents=True, exist_ok=True)
            temporary = memory.with_name(f"{memory.name}.{os.getpid()}")
            temporary.write_text(f"{key} {digest}")
            os.replace(temporary, memory)
    return digest
