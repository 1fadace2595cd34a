"""The scan: rows from outside, partitioned by shard in one pass.

    scan/00000.arrows   a part of the rows, as many as were in memory at once: those of each shard together
    scan/00000.index    where in that file the rows of each shard lie (engine/scan_parts.py)
    scan/done.json      how many parts there are, their digests, and how many rows were read of every shard
    scanned.json        those numbers for good: what a stage says it was given is compared with what was read

Rows are checked before they are opened: pyarrow crashes on an Arrow stream that was changed. The input is
still there, so a scan that is not whole is laid again, also by a command that finds it so as it reads.
"""

import functools
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine import scan_parts
from engine.gaps import SCANNED, RowsRead
from engine.jobs import SCANNING, WHO
from engine.plan import Run
from engine.stage import Scanned
from schemas.errors import UserError
from schemas.leases import Holder, awaited
from schemas.records import Damaged, damaged, record_of, sealed_bytes, what_of
from schemas.store import Store

_SCAN = "scan"
_DONE = "done.json"
_LAID = re.compile(r"[0-9]{5,}\.(?:arrows|index)")
_BUFFER = 128 << 20  # bytes of rows that wait in memory during a scan; a part of the scan is as large
_TRIES = 3  # to read rows while other commands lay the scan again
_log = logging.getLogger("prefmill")
_AGAIN = "run the same `engine precompute` again, which reads the input again"


@dataclass(frozen=True)
class _Done:
    """done.json. `wanted`: the shards that the scan was for; `read`: rows of every shard, by its number;
    `indexes`: the sha256 of each part's index, which has those of its rows."""

    wanted: tuple[int, ...]
    read: tuple[int, ...]
    indexes: tuple[str, ...]


def _say_nothing(text: str) -> None:
    pass


def scan(
    run: Run,
    wanted: Collection[int],
    report: Callable[[int], None],
    say: Callable[[str], None] = _say_nothing,
    *,
    to_the_last_byte: bool = False,
) -> None:
    """Read all input once and put each row into its shard's file, for the shards wanted.

    A scan that was cut off or is damaged starts again, and has then also the shards that it had: others may
    be about to read them. `report` is told how many rows were read, `say` why the input is read again.
    `to_the_last_byte`: whether it is damaged is told by all of it, not by its indexes and sizes."""
    stage = run.stages[0]
    folder = run.folder(stage)
    scanned = folder.child(_SCAN)
    _check_ours(scanned)
    try:
        done = _found(scanned, run.shards)
        if done is not None:
            wanted = set(wanted) | set(done.wanted)
            if len(wanted) == len(done.wanted):
                _check_parts(scanned, done, to_the_last_byte)
            else:
                done = None
    except Damaged as error:
        say(f"{what_of(error)}: the input is read again")
        done = None
    if done is None:
        done = _lay(run, folder, wanted, report)
    counts = sealed_bytes(asdict(RowsRead(done.read)))
    if not folder.exists(SCANNED) or folder.read(SCANNED) != counts:
        folder.put(SCANNED, counts)


def _lay(run: Run, folder: Store, wanted: Collection[int], report: Callable[[int], None]) -> _Done:
    laid: list[_Done] = []

    def fill(path: Path) -> None:
        read, indexes = _partition(run, path, wanted, report)
        rows = tuple(read[shard] for shard in range(run.shards))
        done = _Done(tuple(sorted(wanted)), rows, tuple(indexes))
        (path / _DONE).write_bytes(sealed_bytes(asdict(done)))
        laid.append(done)

    folder.put_folder(_SCAN, fill)
    (done,) = laid
    return done


def remove_scan(run: Run) -> None:
    """Remove the scan, once all shards are made of it. Raises UserError where a user's file lies in it."""
    folder = run.folder(run.stages[0])
    scanned = folder.child(_SCAN)
    _check_ours(scanned)
    scan_parts.forget()
    if scanned.exists():
        with awaited(run.store, SCANNING, WHO, _tell):
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


def _found(scanned: Store, shards: int) -> _Done | None:
    """What the scan that is there says of itself; None where there is none. Raises Damaged."""
    if not scanned.exists():
        return None
    done = _read_done(scanned)
    if len(done.read) != shards or max(done.wanted, default=0) >= shards:
        raise damaged(scanned.where(_DONE), f"it counts {len(done.read)} shards of {shards}", _AGAIN)
    return done


def _read_done(scanned: Store) -> _Done:
    try:
        data = scanned.read(_DONE)
    except FileNotFoundError:
        raise Damaged(f"{scanned.where(_DONE)} is gone: {_AGAIN}") from None
    return _parsed(data, scanned.where(_DONE))


@functools.lru_cache(maxsize=1)  # each shard of a run asks for it
def _parsed(data: bytes, where: str) -> _Done:
    return record_of(data, where, _Done, _AGAIN)


def _check_parts(scanned: Store, done: _Done, to_the_last_byte: bool) -> None:
    """Raise Damaged where a part of the scan is not as it was laid."""
    sizes = {entry.name: entry.size for entry in scanned.entries()}
    for part, digest in enumerate(done.indexes):
        size = sizes.get(scan_parts.rows_name(part))
        scan_parts.check(scanned, part, digest, size, _AGAIN, whole=to_the_last_byte)


def _partition(
    run: Run, folder: Path, wanted: Collection[int], report: Callable[[int], None]
) -> tuple[Counter[int], list[str]]:
    """Lay the parts; how many rows there are of each shard, wanted or not, and the digests of the indexes."""
    stage = run.stages[0]
    assert stage.scan is not None
    read: Counter[int] = Counter()
    waiting: list[Scanned] = []
    waiting_bytes = 0
    indexes: list[str] = []
    is_wanted = np.zeros(run.shards, bool)
    is_wanted[list(wanted)] = True

    def lay() -> None:
        indexes.append(scan_parts.lay(folder, len(indexes), waiting, is_wanted))
        waiting.clear()

    for scanned in stage.scan(run.config(stage), run.planned[stage.name].facts):
        read.update(scanned.shards)
        waiting.append(scanned)
        waiting_bytes += scanned.rows.nbytes
        if waiting_bytes >= _BUFFER:
            lay()
            waiting_bytes = 0
        report(len(scanned.shards))
    if waiting:
        lay()
    return read, indexes


def _tell(holder: Holder) -> None:
    _log.info("waiting for %s, which reads the input", holder)


def laid_rows(run: Run, shard: int) -> pa.Table:
    """The rows scanned for a shard; where the scan is not what it was, it is laid again.

    Another command may have laid it again meanwhile, or removed it as it ended the run, or a disk spoiled
    it. Raises UserError where the input cannot be read."""
    folder = run.folder(run.stages[0])
    for _ in range(_TRIES - 1):
        try:
            return scanned_rows(folder, shard)
        except (Damaged, FileNotFoundError):
            with awaited(run.store, SCANNING, WHO, _tell):
                scan(run, {shard}, lambda rows: None, _log.warning, to_the_last_byte=True)
    return scanned_rows(folder, shard)


def scanned_rows(folder: Store, shard: int) -> pa.Table:
    """The rows scanned for a shard, of which there may be none, in the order of the input.

    Raises Damaged where they are not what the scan laid."""
    scanned = folder.child(_SCAN)
    done = _read_done(scanned)
    if shard not in done.wanted or shard >= len(done.read):
        raise Damaged(f"{scanned} has no shard {shard}: {_AGAIN}")
    if not done.read[shard]:
        return pa.table({"reason": pa.array([], pa.string())})
    parts: list[pa.Table] = []
    for part in range(len(done.indexes)):
        rows = scan_parts.rows_of(scanned, part, done.indexes[part], shard, _AGAIN)
        if rows is not None:
            parts.append(rows)
    count = sum(map(len, parts))
    if count != done.read[shard]:
        what = f"it has {count:,} rows of shard {shard} and the scan read {done.read[shard]:,}"
        raise damaged(scanned.where(scan_parts.index_name(0)), what, _AGAIN)
    return pa.concat_tables(parts)
