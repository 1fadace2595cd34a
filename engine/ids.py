"""Content ids: the names of prompts, responses and rows, and the numbers that follow from them.

- Equal content has an equal id on any machine, so an id never depends on a position or a file's name.
- An id settles the row's shard, its share for splits, and the seed of a sample.
- Arrow list columns of token ids and log-probs are made here too (`lists`), without a Python object a token.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import orjson
import pyarrow as pa


def content_id(*parts: object) -> str:
    """32 hex digits (128 bits) of the sha256 of the parts as JSON: equal content has an equal id, on any machine."""
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()[:32]


def prompt_id(messages: Sequence[dict[str, str]]) -> str:
    return content_id([[message["role"], message["content"]] for message in messages])


def share(identity: str) -> float:
    """A number in [0, 1) that is a function of the id alone and independent of its shard."""
    return int(identity[8:16], 16) / 2**32


def shard_of(identity: str, shards: int) -> int:
    return int(identity[:8], 16) % shards


def seed_of(*parts: object) -> int:
    """A seed of 60 bits that is a function of the parts: samples' seeds lie far apart, whatever stands beside them."""
    return int(content_id("seed", *parts)[:15], 16)


def lists(rows: Sequence, kind: str) -> pa.ListArray:
    """An Arrow list column of int32 or float32 from sequences, without a Python object a token; None is null."""
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([0 if row is None else len(row) for row in rows], out=offsets[1:])
    parts = [np.asarray(row, kind) for row in rows if row is not None]
    values = pa.array(np.concatenate(parts) if parts else np.zeros(0, kind))
    absent = pa.array([row is None for row in rows], pa.bool_()) if any(row is None for row in rows) else None
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=absent)
