"""How much memory this machine has free: of its GPUs, else of its own.

The engine imports this module for commands that must not load torch, so torch is imported inside functions.
"""

from pathlib import Path

from schemas.devices import gpu_is_there

_MEMORY = Path("/proc/meminfo")
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def free_memory() -> int | None:
    """Bytes that a program may take of the machine's memory now; None where the system does not say."""
    try:
        lines = _MEMORY.read_text().splitlines()
    except OSError:
        return None
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    if available is None:
        return None
    for file in _CGROUPS:
        limit = _number_in(file)
        if limit is not None:
            available = min(available, limit)
    return available


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
