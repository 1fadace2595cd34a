"""The scan: rows from outside, partitioned by shard in one pass.

    scan/00007.arrows   the rows of a shard, until all shards are made
    scan/done.json      the digests of those files, and how many rows were read of every shard
    scanned.json        those numbers for good: what a stage says it was given is compared with what was read

A file is checked before it is opened: pyarrow crashes on an Arrow stream that was changed. The input is still
there, so a scan that is not whole is laid again.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.gaps import SCANNED, RowsRead
from engine.plan import Run
from engine.stage import Scanned
from schemas.digest import sha256_file
from schemas.disk import naming
from schemas.errors import UserError
from schemas.manifest import shard_name
from schemas.records import Damaged, damaged, read_record, sealed_bytes, what_of
from schemas.store import Store

_SCAN = "scan"
_DONE = "done.json"
_LAID = re.compile(r"[0-9]{5,}\.arrows")
_BUFFER = 16 << 20  # bytes of rows that wait in memory during a scan
_AGAIN = "run the same `engine precompute` again, which reads the input again"


@dataclass(frozen=True)
class _Done:
    """done.json. `wanted`: the shards that the scan was for; `read`: rows of every shard, by its number;
    `digests`: file name -> sha256; a shard without rows has no file."""

    wanted: tuple[int, ...]
    read: tuple[int, ...]
    digests: dict[str, str]


def _file_name(shard: int) -> str:
    return f"{shard_name(shard)}.arrows"


def _say_nothing(text: str) -> None:
    pass


def scan(
    run: Run,
    wanted: Collection[int],
    report: Callable[[int], None],
    say: Callable[[str], None] = _say_nothing,
) -> None:
    """Read all input once and put each row into its shard's file, for the shards wanted.

    A scan that was cut off or is damaged starts again. `report` is told how many rows were read, `say` why
    the input is read again."""
    stage = run.stages[0]
    folder = run.folder(stage)
    _check_ours(folder.child(_SCAN))
    done = _whole_scan(folder.child(_SCAN), run.shards, wanted, say)
    if done is None:
        done = _lay(run, folder, wanted, report)
    counts = sealed_bytes(asdict(RowsRead(done.read)))
    if not folder.exists(SCANNED) or folder.read(SCANNED) != counts:
        folder.put(SCANNED, counts)


def _lay(run: Run, folder: Store, wanted: Collection[int], report: Callable[[int], None]) -> _Done:
    laid: list[_Done] = []

    def fill(path: Path) -> None:
        read = _partition(run, path, wanted, report)
        digests: dict[str, str] = {}
        for shard in sorted(wanted):
            if read[shard]:
                digests[_file_name(shard)] = sha256_file(path / _file_name(shard))
        rows = tuple(read[shard] for shard in range(run.shards))
        done = _Done(tuple(sorted(wanted)), rows, digests)
        (path / _DONE).write_bytes(sealed_bytes(asdict(done)))
        laid.append(done)

    folder.put_folder(_SCAN, fill)
    (done,) = laid
    return done


def remove_scan(run: Run) -> None:
    """Remove the scan, once all shards are made of it. Raises UserError where a user's file lies in it."""
    folder = run.folder(run.stages[0])
    _check_ours(folder.child(_SCAN))
    folder.remove_folder(_SCAN)


def _check_ours(scanned: Store) -> None:
    """Raise UserError for what the scan's folder holds that no scan has laid: it goes with the scan."""
    for name in scanned.names():
        if name != _DONE and not _LAID.fullmatch(name):
            raise UserError(
                f"{scanned.where(name)} is not prefmill's, and its folder is removed when the run is done: "
                "move it away, then run the same command again"
            )
        scanned.size(name)  # a folder of such a name is refused


def _whole_scan(
    scanned: Store, shards: int, wanted: Collection[int], say: Callable[[str], None]
) -> _Done | None:
    """The scan that is there, if it has all shards that are wanted as they were laid; else `say` why."""
    if not scanned.exists():
        return None
    try:
        done = _read_done(scanned)
        if len(done.read) != shards:
            raise damaged(scanned.where(_DONE), f"it counts {len(done.read)} shards of {shards}", _AGAIN)
        for shard in set(wanted) & set(done.wanted):
            _checked_file(scanned, done, shard)
    except Damaged as error:
        say(f"{what_of(error)}: the input is read again")
        return None
    return done if set(wanted) <= set(done.wanted) else None


def _read_done(scanned: Store) -> _Done:
    if not scanned.exists(_DONE):
        raise Damaged(f"{scanned.where(_DONE)} is gone: {_AGAIN}")
    return read_record(scanned, _DONE, _Done, _AGAIN)


def _checked_file(scanned: Store, done: _Done, shard: int) -> Path | None:
    """The file of a shard as it was laid; None where the shard has no rows. Raises Damaged."""
    if shard not in done.wanted or shard >= len(done.read):
        raise Damaged(f"{scanned} has no shard {shard}: {_AGAIN}")
    if not done.read[shard]:
        return None
    name = _file_name(shard)
    if not scanned.exists(name):
        raise Damaged(f"{scanned.where(name)} is gone: {_AGAIN}")
    digest = done.digests.get(name, "")
    path = scanned.local_file(name, digest)
    with naming(path):
        if not path.is_file() or sha256_file(path) != digest:
            raise damaged(scanned.where(name), f"its sha256 is not the one in {_DONE}", _AGAIN)
    return path


def _partition(
    run: Run, folder: Path, wanted: Collection[int], report: Callable[[int], None]
) -> Counter[int]:
    """Fill the shards' files; how many rows there are of each shard, wanted or not."""
    stage = run.stages[0]
    assert stage.scan is not None
    read: Counter[int] = Counter()
    waiting: dict[int, list[pa.Table]] = {}
    waiting_bytes = 0
    for scanned in stage.scan(run.config(stage), run.planned[stage.name].facts):
        read.update(scanned.shards)
        for shard, rows in _by_shard(scanned):
            if shard in wanted:
                waiting.setdefault(shard, []).append(rows)
        waiting_bytes += scanned.rows.nbytes
        if waiting_bytes >= _BUFFER:
            _flush(folder, waiting)
            waiting_bytes = 0
        report(len(scanned.shards))
    _flush(folder, waiting)
    return read


def _by_shard(scanned: Scanned) -> list[tuple[int, pa.Table]]:
    """The rows of each shard, in the order of the input."""
    shards = pa.array(scanned.shards, pa.int32())
    order = pc.sort_indices(shards)  # stable
    rows = scanned.rows.take(order)
    sorted_shards = shards.take(order).to_numpy()
    begins = np.flatnonzero(np.diff(sorted_shards, prepend=-1)).tolist()
    parts: list[tuple[int, pa.Table]] = []
    for begin, end in pairwise([*begins, len(sorted_shards)]):
        parts.append((int(sorted_shards[begin]), rows.slice(begin, end - begin)))
    return parts


def _flush(folder: Path, waiting: dict[int, list[pa.Table]]) -> None:
    """Append what waits to the shards' files, an Arrow stream each time."""
    for shard, tables in waiting.items():
        rows = pa.concat_tables(tables).combine_chunks()
        with (
            open(folder / _file_name(shard), "ab") as file,
            pa.ipc.new_stream(file, rows.schema) as stream,
        ):
            stream.write_table(rows)
    waiting.clear()


def scanned_rows(folder: Store, shard: int) -> pa.Table:
    """The rows scanned for a shard: Arrow streams one after another in one file, which there may not be.

    Raises Damaged where they are not what the scan laid."""
    scanned = folder.child(_SCAN)
    done = _read_done(scanned)
    path = _checked_file(scanned, done, shard)
    if path is None:
        return pa.table({"reason": pa.array([], pa.string())})
    parts: list[pa.Table] = []
    with naming(path), pa.memory_map(str(path)) as file:
        while file.tell() < file.size():
            with pa.ipc.open_stream(file) as stream:
                parts.append(stream.read_all())
    rows = pa.concat_tables(parts)
    if len(rows) != done.read[shard]:
        what = f"it has {len(rows):,} rows and the scan read {done.read[shard]:,}"
        raise damaged(scanned.where(_file_name(shard)), what, _AGAIN)
    return rows
