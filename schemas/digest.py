"""How content is named: the fingerprint of facts, the sha256 of a file.

The digests of input and weight files are remembered in the user's cache folder, so that 100 GB of weights are
read once, not in every run.
"""

import contextlib
import hashlib
import json
import os
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# A file changed so shortly before it was hashed may change again without its state changing, so its digest is
# not remembered. A clock that was set back makes every file such a one until it has caught up.
_RACY_NANOSECONDS = 2_000_000_000
_LONGEST_ENTRY = 512  # bytes


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
class _State:
    """What tells a file's content from a later one without reading it.

    Size and `modified` can be set by whoever writes the file (`rsync -t --inplace`, `touch -r`); `changed`,
    which the kernel sets at every write, and at every such setting, cannot."""

    size: int
    modified: int  # nanoseconds
    changed: int
    inode: int
    device: int

    @property
    def text(self) -> str:
        """How it stands in the memory."""
        return f"{self.size} {self.modified} {self.changed} {self.inode} {self.device}"

    def is_settled(self) -> bool:
        """True if a change from now on would show: its last one is some time ago by the clock of now."""
        return is_settled(max(self.modified, self.changed))


def is_settled(changed: int) -> bool:
    """True if a change of a file from now on would show; `changed`: its last one, in nanoseconds."""
    return time.time_ns() - changed > _RACY_NANOSECONDS


def _state_of(path: Path) -> _State:
    found = path.stat()
    return _State(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


def _memory_folder() -> Path:
    return cache_folder() / "digests"


def _memory_file(path: Path, state: _State) -> Path:
    """Where the digest of a file is remembered.

    A home that several machines share has a place for each of them: they know a disk of the network by other
    numbers, and would write over each other's."""
    return _memory_folder() / hashlib.sha256(f"{path}\0{state.device}".encode()).hexdigest()


def _entry(path: Path, state: _State, digest: str) -> str:
    """A line of the memory: the state, the digest, and a digest of both and of the path."""
    check = hashlib.sha256(f"{path}\0{state.text}\0{digest}".encode()).hexdigest()
    return f"{state.text} {digest} {check}"


def _remembered(path: Path, state: _State) -> str | None:
    """The digest that is remembered of a file in this state; None where there is none, or a damaged one."""
    if not only_we_write(_memory_folder()):
        return None
    try:
        handle = os.open(_memory_file(path, state), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            known = file.read(_LONGEST_ENTRY)
    except OSError:
        return None
    digest = known[-129:-65].decode("ascii", "replace")
    return digest if known == _entry(path, state, digest).encode() else None


def _remember(path: Path, state: _State, digest: str) -> None:
    """Write a digest down; a home that cannot be written must not stop the run."""
    memory = _memory_file(path, state)
    with contextlib.suppress(OSError):
        memory.parent.parent.mkdir(parents=True, exist_ok=True)
        memory.parent.mkdir(mode=0o700, exist_ok=True)
        if not only_we_write(memory.parent):
            return
        # Made exclusively and under a name that nobody can guess.
        handle, temporary = tempfile.mkstemp(dir=memory.parent)
        with open(handle, "w") as file:
            file.write(_entry(path, state, digest))
        os.replace(temporary, memory)


def only_we_write(folder: Path) -> bool:
    """True if a folder is ours and nobody else may write into it: what others write is not believed."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    others_may_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not others_may_write


def is_remembered(path: Path) -> bool:
    """True if `content_digest` will answer without reading the file."""
    path = path.resolve()
    return _remembered(path, _state_of(path)) is not None


def content_digest(path: Path) -> str:
    """The sha256 of a file, remembered by its path and by what the kernel says of its last change."""
    path = path.resolve()
    state = _state_of(path)
    known = _remembered(path, state)
    if known is not None:
        return known
    digest = sha256_file(path)
    if state.is_settled() and _state_of(path) == state:
        _remember(path, state, digest)
    return digest
