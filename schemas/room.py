"""How much memory this machine has free: of its GPUs, else of its own.

The engine imports this module for commands that must not load torch, so torch is imported inside functions.
"""

from pathlib import Path

from schemas.devices import gpu_is_there

_MEMORY = Path("/proc/meminfo")
# What a container may take at most, and what it has taken.
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
_STATISTICS = "memory.stat"
_RECLAIMABLE = "inactive_file"  # file contents that the system gives back when memory is wanted


def free_memory() -> int | None:
    """Bytes that a program may take of the machine's memory now; None where the system does not say."""
    try:
        lines = _MEMORY.read_text().splitlines()
    except OSError:
        return None
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    if available is None:
        return None
    for limit_file, used_file in _CGROUPS:
        limit, used = _number_in(limit_file), _number_in(used_file)
        if limit is not None:
            left = limit - (used or 0) + _reclaimable(limit_file.with_name(_STATISTICS))
            available = min(available, max(0, min(left, limit)))
    return available


def _reclaimable(file: Path) -> int:
    """Bytes that a container has taken and that it gives back when they are wanted."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        name, _, value = line.partition(" ")
        if name in (_RECLAIMABLE, f"total_{_RECLAIMABLE}") and value.isdigit():
            return int(value)
    return 0


def free_of_gpus() -> list[int]:
    """Bytes that are free on each GPU now; empty where there is none."""
    if not gpu_is_there():
        return []
    import torch

    free: list[int] = []
    for index in range(torch.cuda.device_count()):
        free.append(int(torch.cuda.mem_get_info(index)[0]))
    return free


def _number_in(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
