"""What a listing of a folder shows of each file: the same for a local disk and for object storage."""

import os
from typing import NamedTuple


class Entry(NamedTuple):
    """A file of a folder as a listing shows it. `stamp`: another one whenever the file was written again.

    `changed`: on a disk, when that was, in nanoseconds: two writes within a moment may leave one stamp."""

    name: str
    size: int  # bytes
    stamp: str
    changed: int = 0


def entry_of(name: str, state: os.stat_result) -> Entry:
    """The entry of a file on a disk.

    Whoever writes a file can set the time that it was modified (`rsync -t`, `touch -r`); the time of its last
    change of any kind, which the kernel sets, nobody can."""
    stamp = f"{state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}"
    return Entry(name, state.st_size, stamp, max(state.st_mtime_ns, state.st_ctime_ns))
