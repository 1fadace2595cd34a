"""Are the Parquet files of a folder what their markers say? Asked of many files at once.

What a listing shows (a file that is gone, or has another size) is always seen. What a file holds is compared
with its sha256: remembered where the file was not written again since it was last read (schemas/seen.py),
else read, by several threads.
"""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from schemas.digest import is_settled
from schemas.manifest import File, Finished, check, check_content
from schemas.records import Damaged, damaged
from schemas.seen import seen_in
from schemas.store import Entry, Store
from schemas.tables import TABLES

_THREADS = 32  # object storage answers as many requests at once
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
    finished: Finished, tables: Collection[str] = tuple(TABLES), allowance: Allowance | None = None
) -> dict[int, Damaged]:
    """The files of these tables that are not what their markers say: place among all files -> why.

    `allowance`: how much may be read of what is not remembered; None: all of it."""
    markers, entries = finished.shards, finished.entries
    names = markers.file_names()
    places = markers.places_of(frozenset(tables))
    found: dict[int, Damaged] = {}
    there: list[int] = []
    for place in places:
        entry = entries.get(names[place])
        size = markers.file_sizes[place]
        if entry is None:
            # Gone, written just now, or a folder in its place, which is the user's to move away.
            problem = _problem(finished.folder, markers.file(place))
            if problem is not None:
                found[place] = problem
        elif size is not None and entry.size != size:
            where = finished.folder.where(names[place])
            found[place] = damaged(where, f"it has {entry.size:,} bytes and its marker says {size:,}")
        else:
            there.append(place)
    memory = seen_in(finished.folder.where())
    listed = [entries[names[place]] for place in there]
    unknown = memory.unknown(listed, [markers.sha256[place] for place in there])
    to_read = [there[number] for number in unknown if allowance is None or allowance.takes(listed[number])]
    with ThreadPoolExecutor(_THREADS) as pool:
        for begin in range(0, len(to_read), _AT_ONCE):
            batch = to_read[begin : begin + _AT_ONCE]
            settled = [is_settled(entries[names[place]].changed) for place in batch]
            answers = pool.map(lambda place: _content_problem(finished.folder, markers.file(place)), batch)
            for place, problem, may_note in zip(batch, answers, settled, strict=True):
                if problem is not None:
                    found[place] = problem
                elif may_note:
                    memory.note(entries[names[place]], markers.sha256[place])
            memory.write()
    return found


def _content_problem(folder: Store, file: File) -> Damaged | None:
    """What is wrong with the bytes of a file that the listing showed with the size of its marker."""
    try:
        check_content(folder, file)
    except FileNotFoundError:  # gone since
        return _problem(folder, file)
    except Damaged as error:
        return error
    return None


def _problem(folder: Store, file: File) -> Damaged | None:
    try:
        check(folder, file)
    except Damaged as error:
        return error
    return None
