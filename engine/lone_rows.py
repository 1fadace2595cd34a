"""Prompts that have one row each, made into rows of `prompts` a column at a time.

Most prompts of most inputs are such. What more than one row says of a prompt is gathered one by one
(engine/gathered.py), and so is a row with metadata, ratings, comparisons or calls of tools.
"""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import GIVEN, TABLES


def are_lone(batch: pa.Table) -> np.ndarray:
    """(rows,) booleans of a shard's rows of the scan: whether a row is its prompt's only one, and plain."""
    prompt_ids = batch["prompt_id"].to_pylist()
    rows_of = Counter(prompt_ids)
    is_lone = np.fromiter((rows_of[prompt_id] == 1 for prompt_id in prompt_ids), bool, len(prompt_ids))
    is_lone &= _as_numpy(batch["reason"].is_null())
    is_lone &= _as_numpy(batch["metadata"].is_null())
    is_lone[_rows_that_say_more(batch["responses"])] = False
    return is_lone


def _as_numpy(booleans: pa.ChunkedArray) -> np.ndarray:
    values: np.ndarray = booleans.combine_chunks().to_numpy(zero_copy_only=False)
    return values


def _rows_that_say_more(responses: pa.ChunkedArray) -> np.ndarray:
    """The places of the rows of which a response has a rating, a comparison or a turn."""
    flat = _flattened(responses)
    says_more = np.zeros(len(flat), bool)
    for name in ("rating", "comparison", "turn"):
        says_more |= flat.field(name).is_valid().to_numpy(zero_copy_only=False)
    rows: np.ndarray = _rows_of_items(responses)[says_more]
    return rows


def _flattened(lists: pa.ChunkedArray) -> pa.StructArray:
    items: pa.StructArray = lists.combine_chunks().flatten()
    return items


def _rows_of_items(lists: pa.ChunkedArray) -> np.ndarray:
    """(items,) the row of each item of the lists."""
    rows: np.ndarray = pc.list_parent_indices(lists.combine_chunks()).to_numpy()
    return rows


def prompts_of(batch: pa.Table, is_lone: np.ndarray) -> pa.Table:
    """The rows of `prompts` for the lone ones of a shard's rows of the scan, by prompt_id."""
    lone = np.flatnonzero(is_lone)
    order = pc.sort_indices(batch["prompt_id"].take(pa.array(lone))).to_numpy()
    rows = batch.combine_chunks().take(pa.array(lone[order]))
    messages = rows["messages"].combine_chunks()
    contents = _flattened(rows["messages"]).field("content")
    last = np.cumsum(pc.list_value_length(messages).to_numpy()) - 1
    columns = {
        "prompt_id": rows["prompt_id"],
        "messages": messages,
        "prompt": contents.take(pa.array(last)),
        "chat": rows["chat"],
        "given": _given(rows),
        "file": rows["file"],
        "line": rows["line"],
        "given_split": _train_or_test(rows["split"]),
        "reference": _if_not_empty(rows["reference"]),
    }
    schema = TABLES["prompts"]
    arrays: list[pa.Array] = []
    for field in schema:
        column = columns.get(field.name)
        arrays.append(pa.nulls(len(rows), field.type) if column is None else column)
    return pa.Table.from_arrays(arrays, schema=schema)


def _given(rows: pa.Table) -> pa.Array:
    """The responses, each with the row as the comparison that it is in."""
    responses = rows["responses"].combine_chunks()
    flat = _flattened(rows["responses"])
    comparisons = rows["row_id"].combine_chunks().take(pa.array(_rows_of_items(rows["responses"])))
    parts = [comparisons, flat.field("text"), flat.field("score")]
    given = pa.StructArray.from_arrays(parts, fields=list(GIVEN.value_type))
    offsets = np.zeros(len(responses) + 1, np.int32)
    np.cumsum(pc.list_value_length(responses).to_numpy(), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), given, type=GIVEN)


def _train_or_test(splits: pa.ChunkedArray) -> pa.ChunkedArray:
    is_known = pc.is_in(splits, pa.array(["train", "test"]))
    return pc.if_else(is_known, splits, pa.scalar(None, pa.string()))


def _if_not_empty(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
