"""What a listing of a folder shows of each file: the same for a local disk and for object storage."""

from collections.abc import Iterable
from dataclasses import dataclass

# The file that whoever reads a folder of ours looks for: of a model, an adapter, a checkpoint, the scan.
_REAL_BY = ("config.json", "adapter_config.json", "state.json", "done.json")


@dataclass(frozen=True)
class Entry:
    """A file of a folder as a listing shows it. `stamp`: another one whenever the file was written again."""

    name: str
    size: int  # bytes
    stamp: str


def real_last(names: Iterable[str]) -> list[str]:
    """Names of files, so ordered that the one which makes its folder real comes last.

    Object storage writes a folder file by file: while this one is not there, none is."""

    def rank(name: str) -> tuple[int, str]:
        last = name.rpartition("/")[2]
        return (_REAL_BY.index(last) if last in _REAL_BY else -1, name)

    return sorted(names, key=rank)
