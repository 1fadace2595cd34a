"""A part of the scan: rows sorted by shard in one file, and where in it each shard's rows lie in another.

The rows of a shard are an Arrow stream of their own, so they are read without the others. The index has a
record of fixed length for each shard: begin, length and number of rows, and the sha256 of those bytes.
"""

import hashlib
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.stage import Scanned
from schemas.records import Damaged, damaged
from schemas.store import Store

_RECORD = struct.Struct("<QQQ32s")
_NO_ROWS = _RECORD.pack(0, 0, 0, bytes(32))
_PIECE = 16 << 20


def rows_name(part: int) -> str:
    """The name of the file with the rows."""
    return f"{part:05d}.arrows"


def index_name(part: int) -> str:
    """The name of the file that says where they lie."""
    return f"{part:05d}.index"


def lay(folder: Path, part: int, batches: Sequence[Scanned], is_wanted: np.ndarray) -> dict[str, str]:
    """Write a part of the rows of the shards wanted, (shards,) booleans; the sha256 of each file by its name.

    The rows of a shard are in the order of the batches."""
    shards = np.concatenate([np.asarray(batch.shards, np.int64) for batch in batches])
    rows = pa.concat_tables([batch.rows for batch in batches]).combine_chunks()
    kept = np.flatnonzero(is_wanted[shards])
    order = kept[np.argsort(shards[kept], kind="stable")]
    rows = rows.take(pa.array(order))
    shards = shards[order]
    index = [_NO_ROWS] * len(is_wanted)
    digest = hashlib.sha256()
    with open(folder / rows_name(part), "wb") as file:
        begins = np.flatnonzero(np.diff(shards, prepend=-1)).tolist()
        for begin, end in pairwise([*begins, len(shards)]):
            data = _stream(rows.slice(begin, end - begin))
            place = file.tell()
            file.write(data)
            digest.update(data)
            record = _RECORD.pack(place, data.size, end - begin, hashlib.sha256(data).digest())
            index[int(shards[begin])] = record
    index_bytes = b"".join(index)
    (folder / index_name(part)).write_bytes(index_bytes)
    return {
        rows_name(part): digest.hexdigest(),
        index_name(part): hashlib.sha256(index_bytes).hexdigest(),
    }


def _stream(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return sink.getvalue()


def digest_of(scanned: Store, name: str) -> str:
    """The sha256 of a file, read piece by piece."""
    digest = hashlib.sha256()
    begin = 0
    while data := scanned.read_range(name, begin, _PIECE):
        digest.update(data)
        begin += len(data)
    return digest.hexdigest()


def rows_of(scanned: Store, part: int, shard: int, remedy: str) -> pa.Table | None:
    """The rows of a shard in a part; None where it has none there. Raises Damaged."""
    name = index_name(part)
    record = _read(scanned, name, shard * _RECORD.size, _RECORD.size, remedy)
    begin, length, count, digest = _RECORD.unpack(record)
    if not count and not length:
        return None
    data = _read(scanned, rows_name(part), begin, length, remedy)
    if hashlib.sha256(data).digest() != digest:
        why = f"the sha256 of the rows of shard {shard} is not the one in {name}"
        raise damaged(scanned.where(rows_name(part)), why, remedy)
    with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
        rows = stream.read_all()
    assert len(rows) == count, (len(rows), count)
    return rows


def _read(scanned: Store, name: str, begin: int, length: int, remedy: str) -> bytes:
    """`length` bytes of a file. Raises Damaged where it has not so many."""
    if not scanned.exists(name):
        raise Damaged(f"{scanned.where(name)} is gone: {remedy}")
    data = b""
    if begin + length <= scanned.size(name):
        data = scanned.read_range(name, begin, length)
    if len(data) != length:
        raise damaged(scanned.where(name), f"it ends before byte {begin + length:,}", remedy)
    return data
