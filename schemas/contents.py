"""Are the Parquet files of a folder what their markers say? Asked of many files at once.

What a listing shows (a file that is gone, or has another size) is always seen. What a file holds is compared
with its sha256: remembered where the file was not written again since it was last read (schemas/seen.py),
else read, by several threads.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from schemas.digest import is_settled
from schemas.manifest import File, verify
from schemas.records import AGAIN, Damaged, damaged
from schemas.seen import seen_in
from schemas.store import Entry, Store

_THREADS = 8
_AT_ONCE = 512  # files whose digests are written down together


@dataclass
class Allowance:
    """How many files, and how many bytes of them, may still be read; `left_out`: what was not, for that.

    A file that is remembered costs nothing."""

    files: int
    bytes: int
    left_out: int = 0

    def takes(self, entry: Entry) -> bool:
        """True if the file may be read; then it counts."""
        if self.files < 1 or self.bytes < entry.size:
            self.left_out += 1
            return False
        self.files -= 1
        self.bytes -= entry.size
        return True


def check_files(
    folder: Store,
    files: Sequence[File],
    entries: Mapping[str, Entry],
    allowance: Allowance | None = None,
) -> dict[str, Damaged]:
    """The files that are not what their markers say: name -> why. `entries`: the folder's listing, by name.

    `allowance`: how much may be read of what is not remembered; None: all of it."""
    memory = seen_in(folder.where())
    found: dict[str, Damaged] = {}
    unknown: list[File] = []
    for file in files:
        entry = entries.get(file.name)
        if entry is None:
            found[file.name] = Damaged(
                f"{folder.where(file.name)}: the marker names this file but it is gone: {AGAIN}"
            )
        elif file.size is not None and entry.size != file.size:
            where = folder.where(file.name)
            found[file.name] = damaged(
                where, f"it has {entry.size:,} bytes and its marker says {file.size:,}"
            )
        elif memory.known(entry) != file.sha256 and (allowance is None or allowance.takes(entry)):
            unknown.append(file)
    with ThreadPoolExecutor(_THREADS) as pool:
        for begin in range(0, len(unknown), _AT_ONCE):
            batch = unknown[begin : begin + _AT_ONCE]
            settled = [is_settled(entries[file.name].changed) for file in batch]
            answers = pool.map(lambda file: _problem(folder, file), batch)
            for file, problem, may_note in zip(batch, answers, settled, strict=True):
                if problem is not None:
                    found[file.name] = problem
                elif may_note:
                    memory.note(entries[file.name], file.sha256)
            memory.write()
    return found


def _problem(folder: Store, file: File) -> Damaged | None:
    try:
        verify(folder, file)
    except Damaged as error:
        return error
    return None
