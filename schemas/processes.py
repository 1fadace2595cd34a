"""What names a process for good: its machine since that was started, its number and when it was born."""

import os
import uuid
from pathlib import Path

_PROC = Path("/proc")


def machine() -> str:
    """This machine since it was started, and the numbering of its processes: a container has its own."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:  # no Linux
        return f"{uuid.getnode():012x}"


def born(pid: int) -> str | None:
    """When a process of this machine was started, in the kernel's ticks; None where it is gone.

    Without /proc the kernel tells only whether there is a process of that number: empty, if there is."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        has_proc = (_PROC / "self/stat").exists()
        return None if has_proc or not _is_there(pid) else ""
    fields = stat.rpartition(")")[2].split()
    state, ticks = fields[0], fields[19]
    return None if state in ("Z", "X") else ticks


def _is_there(pid: int) -> bool:
    """True if this machine has a process of that number."""
    try:
        os.kill(pid, 0)
    except PermissionError:  # somebody else's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
