"""A part of the scan: rows sorted by shard in one file, and where in it each shard's rows lie in another.

The rows of a shard are an Arrow stream of their own, so they are read without the others. The index has a
record of fixed length for each shard: where its rows begin, how many bytes they are, and their sha256.
"""

import hashlib
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from engine.stage import Scanned
from schemas.records import Damaged, damaged
from schemas.store import Store

_RECORD = struct.Struct("<QQ32s")
_NO_ROWS = _RECORD.pack(0, 0, bytes(32))


def rows_name(part: int) -> str:
    """The name of the file with the rows."""
    return f"{part:05d}.arrows"


def index_name(part: int) -> str:
    """The name of the file that says where they lie."""
    return f"{part:05d}.index"


def lay(folder: Path, part: int, batches: Sequence[Scanned], is_wanted: np.ndarray) -> str:
    """Write a part of the rows of the shards wanted, (shards,) booleans; returns the sha256 of its index.

    The rows of a shard are in the order of the batches."""
    shards = np.concatenate([np.asarray(batch.shards, np.int64) for batch in batches])
    rows = pa.concat_tables([batch.rows for batch in batches]).combine_chunks()
    kept = np.flatnonzero(is_wanted[shards])
    order = kept[np.argsort(shards[kept], kind="stable")]
    rows = rows.take(pa.array(order))
    shards = shards[order]
    index = [_NO_ROWS] * len(is_wanted)
    with open(folder / rows_name(part), "wb") as file:
        begins = np.flatnonzero(np.diff(shards, prepend=-1)).tolist()
        for begin, end in pairwise([*begins, len(shards)]):
            data = _stream(rows.slice(begin, end - begin))
            place = file.tell()
            file.write(data)
            record = _RECORD.pack(place, data.size, hashlib.sha256(data).digest())
            index[int(shards[begin])] = record
    index_bytes = b"".join(index)
    (folder / index_name(part)).write_bytes(index_bytes)
    return hashlib.sha256(index_bytes).hexdigest()


def _stream(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return sink.getvalue()


def check(scanned: Store, part: int, digest: str, remedy: str) -> None:
    """Raise Damaged where the index of a part has another digest, or its rows have others than it says."""
    name = index_name(part)
    index = _read(scanned, name, 0, None, remedy)
    if hashlib.sha256(index).hexdigest() != digest:
        raise damaged(scanned.where(name), "its sha256 is not the one that the scan wrote down", remedy)
    end = 0
    for shard, record in enumerate(_RECORD.iter_unpack(index)):
        end += len(_checked(scanned, part, shard, record, remedy))
    name = rows_name(part)
    if scanned.exists(name) and scanned.size(name) != end:
        raise damaged(scanned.where(name), f"it has more than the {end:,} bytes of its rows", remedy)


def rows_of(scanned: Store, part: int, shard: int, remedy: str) -> pa.Table | None:
    """The rows of a shard in a part; None where it has none there. Raises Damaged."""
    record = _RECORD.unpack(_read(scanned, index_name(part), shard * _RECORD.size, _RECORD.size, remedy))
    data = _checked(scanned, part, shard, record, remedy)
    if not data:
        return None
    with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
        return stream.read_all()


def _checked(scanned: Store, part: int, shard: int, record: tuple[Any, ...], remedy: str) -> bytes:
    """The bytes of a shard's rows, none where it has no rows. Raises Damaged."""
    begin, length, digest = record
    if not length:
        return b""
    name = rows_name(part)
    data = _read(scanned, name, begin, length, remedy)
    if hashlib.sha256(data).digest() != digest:
        why = f"the sha256 of the rows of shard {shard} is not the one in {index_name(part)}"
        raise damaged(scanned.where(name), why, remedy)
    return data


def _read(scanned: Store, name: str, begin: int, length: int | None, remedy: str) -> bytes:
    """`length` bytes of a file, or all. Raises Damaged where it has not so many."""
    if not scanned.exists(name):
        raise Damaged(f"{scanned.where(name)} is gone: {remedy}")
    size = scanned.size(name)
    if length is None:
        length = size - begin
    if begin + length > size:
        raise damaged(scanned.where(name), f"it ends before byte {begin + length:,}", remedy)
    return scanned.read_range(name, begin, length)
