"""How content is named: the fingerprint of facts, the sha256 of a file.

The digests of input and weight files are remembered in the user's cache folder, so that 100 GB of weights are
read once, not in every run.
"""

import contextlib
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

# A file changed this many seconds before it was hashed may change again without its size or time changing, so
# its digest is not remembered.
_RACY_SECONDS = 2.0


def canonical(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fingerprint(facts: object) -> str:
    """12 hex digits (48 bits) of the facts' sha256: the name of a folder."""
    return hashlib.sha256(canonical(facts)).hexdigest()[:12]


def sha256_file(path: Path) -> str:
    """The sha256 of a file, read whole. An OSError names the file, also where reading it fails midway."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def cache_folder() -> Path:
    """Where prefmill keeps what only saves time; deleting it changes no result."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prefmill"


@dataclass(frozen=True)
class _Memory:
    """What is remembered of a file: where, its state, and the digest (None if its state is another)."""

    path: Path
    state: str
    digest: str | None


def _memory_of(path: Path) -> _Memory:
    stat = path.stat()
    state = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    memory = cache_folder() / "sha256" / hashlib.sha256(str(path).encode()).hexdigest()
    with contextlib.suppress(OSError, ValueError):
        known_state, digest = memory.read_text().rsplit(" ", 1)
        if known_state == state:
            return _Memory(memory, state, digest)
    return _Memory(memory, state, None)


def is_remembered(path: Path) -> bool:
    """True if `content_digest` will answer without reading the file."""
    return _memory_of(path.resolve()).digest is not None


def content_digest(path: Path) -> str:
    """The sha256 of a file, remembered by its path, size, time of change and inode."""
    path = path.resolve()
    memory = _memory_of(path)
    if memory.digest is not None:
        return memory.digest
    digest = sha256_file(path)
    if time.time() - path.stat().st_mtime > _RACY_SECONDS:
        # A home that cannot be written must not stop the run.
        with contextlib.suppress(OSError):
            memory.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = memory.path.with_name(f"{memory.path.name}.{os.getpid()}")
            temporary.write_text(f"{memory.state} {digest}")
            os.replace(temporary, memory.path)
    return digest
