"""What a listing of a folder shows of each file: the same for a local disk and for object storage."""

import os
from collections.abc import Iterable
from typing import NamedTuple

# The file that whoever reads a folder of ours looks for: of a model, an adapter, a checkpoint, the scan.
_REAL_BY = ("config.json", "adapter_config.json", "state.json", "done.json")


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


def real_last(names: Iterable[str]) -> list[str]:
    """Names of files, so ordered that the one which makes its folder real comes last.

    Object storage writes a folder file by file: while this one is not there, none is."""

    def rank(name: str) -> tuple[int, str]:
        last = name.rpartition("/")[2]
        return (_REAL_BY.index(last) if last in _REAL_BY else -1, name)

    return sorted(names, key=rank)
