"""What a listing of a folder shows of each file: the same for a local disk and for object storage."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A file of a folder as a listing shows it. `stamp`: another one whenever the file was written again."""

    name: str
    size: int  # bytes
    stamp: str
