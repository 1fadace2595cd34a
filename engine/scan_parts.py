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


def check(scanned: Store, part: int, digest: str, size: int | None, remedy: str, *, whole: bool) -> None:
    """Raise Damaged where the index of a part has another digest, or its rows not the size that it says.

    `size`: of the file of the rows, as a listing showed it; None where there is none. `whole`: also where the
    rows are others than it says, for which all of them are read."""
    index = _index(scanned, part, digest, remedy)
    end = sum(length for _, length, _ in _RECORD.iter_unpack(index))
    where = scanned.where(rows_name(part))
    if size is None:
        raise Damaged(f"{where} is gone: {remedy}")
    if size != end:
        raise damaged(where, f"it has {size:,} bytes and its rows {end:,}", remedy)
    if whole:
        for shard, record in enumerate(_RECORD.iter_unpack(index)):
            _checked(scanned, part, shard, record, remedy)


def _index(scanned: Store, part: int, digest: str, remedy: str) -> bytes:
    """The index of a part. Raises Damaged where it has not the digest that the scan wrote down."""
    name = index_name(part)
    try:
        index = scanned.read(name)
    except FileNotFoundError:
        raise Damaged(f"{scanned.where(name)} is gone: {remedy}") from None
    if hashlib.sha256(index).hexdigest() != digest:
        raise damaged(scanned.where(name), "its sha256 is not the one that the scan wrote down", remedy)
    return index


# Indexes by their sha256: every shard looks into each of them. Beyond so many bytes records are read one by
# one: a hundred thousand shards have 5 MB of them in every part.
_KEPT_BYTES = 64 << 20
_kept: dict[str, bytes] = {}


def _record(scanned: Store, part: int, digest: str, shard: int, remedy: str) -> tuple[Any, ...]:
    """Where a shard's rows are in a part, how many bytes, and their sha256. Raises Damaged."""
    begin = shard * _RECORD.size
    index = _kept.get(digest)
    if index is None and sum(map(len, _kept.values())) < _KEPT_BYTES:
        index = _kept[digest] = _index(scanned, part, digest, remedy)
    if index is not None:
        return _RECORD.unpack_from(index, begin)
    return _RECORD.unpack(_read(scanned, index_name(part), begin, _RECORD.size, remedy))


def forget() -> None:
    """Forget the indexes of a scan that is not in use any more."""
    _kept.clear()


def rows_of(scanned: Store, part: int, digest: str, shard: int, remedy: str) -> pa.Table | None:
    """The rows of a shard in a part, whose index has this digest; None where it has none. Raises Damaged."""
    record = _record(scanned, part, digest, shard, remedy)
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


def _read(scanned: Store, name: str, begin: int, length: int, remedy: str) -> bytes:
    """`length` bytes of a file. Raises Damaged where it has not so many."""
    try:
        data = scanned.read_range(name, begin, length)
    except FileNotFoundError:
        raise Damaged(f"{scanned.where(name)} is gone: {remedy}") from None
    if len(data) < length:
        raise damaged(scanned.where(name), f"it ends before byte {begin + length:,}", remedy)
    return data
