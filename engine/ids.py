"""Content ids: the names of prompts, responses and rows, and the numbers that follow from them.

- Equal content has an equal id on any machine, so an id never depends on a position or a file's name.
- An id settles the row's shard, its share for splits, and the seed of a sample.
- Arrow list columns of token ids and log-probs are made here too (`lists`), without a Python object a token.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa


def content_id(*parts: object) -> str:
    """32 hex digits: the first 128 bits of the sha256 of the parts as JSON."""
    text = orjson.dumps(parts)
    return hashlib.sha256(text).hexdigest()[:32]


def prompt_id(messages: Sequence[dict[str, str]], chat: str | None = None) -> str:
    """The id of a prompt: of the roles and contents of its messages, in order, and of its column `chat`."""
    turns = [[message["role"], message["content"]] for message in messages]
    return content_id(turns) if chat is None else content_id(turns, chat)


def share(identity: str) -> float:
    """A number in [0, 1) that depends on the id alone and is independent of its shard."""
    return int(identity[8:16], 16) / 2**32


def shard_of(identity: str, shards: int) -> int:
    """The number of the shard, in [0, shards), that holds the id in every table."""
    return int(identity[:8], 16) % shards


def seed_of(*parts: object) -> int:
    """A seed of 60 bits that depends on the parts alone, so the seeds of any two samples lie far apart."""
    return int(content_id("seed", *parts)[:15], 16)


def lists(rows: Sequence[Any], kind: str) -> pa.ListArray:
    """An Arrow list column from sequences of numbers, or None for null; `kind` is "int32" or "float32"."""
    is_null: list[bool] = []
    lengths: list[int] = []
    values = [np.zeros(0, kind)]  # so that a column without values has the type, too
    for row in rows:
        is_null.append(row is None)
        if row is None:
            lengths.append(0)
        else:
            lengths.append(len(row))
            values.append(np.asarray(row, kind))
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    mask = None
    if any(is_null):
        mask = pa.array(is_null, pa.bool_())
    flat = pa.array(np.concatenate(values))
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=mask)
