"""Shared memory that an ended engine would leave behind: files in /dev/shm that nobody removes after a kill.

vLLM's workers talk through such files (psm_…, by multiprocessing), NCCL's and torch's processes too (nccl-…,
torch_…), and vLLM's offloading (vllm_offload_…). Their names say nothing of whose they are, so an engine's
are those that a process of its group has mapped. One that was there before the engine, or that a process
outside its group has mapped, is left alone. Where there is no /proc, nothing is known and nothing removed.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_FOLDER = Path("/dev/shm")
_PROCESSES = Path("/proc")


def names() -> set[str]:
    """What lies in shared memory now."""
    with contextlib.suppress(OSError):
        return set(os.listdir(_FOLDER))
    return set()


def mapped_by(group: int) -> set[str]:
    """What the processes of a process group have mapped."""
    found: set[str] = set()
    for process in _processes():
        if _group_of(process) == group:
            found |= _mapped(process)
    return found


def release(segments: Iterable[str], group: int) -> None:
    """Remove those of these segments that no process outside the group has mapped."""
    left = set(segments) & names()
    if not left:
        return
    for process in _processes():
        if _group_of(process) != group:
            left -= _mapped(process)
    for name in left:
        with contextlib.suppress(OSError):
            (_FOLDER / name).unlink()


def _processes() -> Iterator[int]:
    with contextlib.suppress(OSError):
        for name in os.listdir(_PROCESSES):
            if name.isdigit():
                yield int(name)


def _group_of(process: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.getpgid(process)
    return None


def _mapped(process: int) -> set[str]:
    """The names of the segments that a process has mapped; none of one that we may not look at."""
    found: set[str] = set()
    begins = f"{_FOLDER}/"
    with contextlib.suppress(OSError):
        for line in (_PROCESSES / str(process) / "maps").read_text(errors="replace").splitlines():
            # address permissions offset device inode path; a path may hold spaces
            fields = line.split(maxsplit=5)
            path = fields[5] if len(fields) == 6 else ""
            if path.startswith(begins) and not path.endswith(" (deleted)"):
                found.add(path.removeprefix(begins))
    return found
