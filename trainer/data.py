"""Shards of pairs to batches, in constant memory: the order is a function of (seed, epoch), a position is one integer.

Shards are visited in a shuffled order and the rows of each are shuffled; since a pair's shard is settled by a digest, that is a shuffle of
the whole. Every rank reads the same stream and takes its part of each global batch, so a global step holds the same pairs whatever the
number of ranks. The next shard is read in a thread while this one is trained on; no token passes through a Python list.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import UserError
from schemas.manifest import Marker, read_json, read_markers, read_plan, verify

COLUMNS = ("pair_id", "split", "prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_token_logps", "ref_rejected_token_logps")
# What a loss may need beside them, and what makes it.
MADE_BY = {
    "chosen_edit_mask": "an older prefmill made these pairs: run `engine precompute` again",
    "rejected_edit_mask": "an older prefmill made these pairs: run `engine precompute` again",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Views into a shard's flat arrays: token ids int32, reference log-probs float32, one for each response token."""

    pair_id: str
    prompt_ids: np.ndarray
    chosen_ids: np.ndarray
    rejected_ids: np.ndarray
    ref_chosen_token_logps: np.ndarray
    ref_rejected_token_logps: np.ndarray
    more: dict[str, np.ndarray] = field(default_factory=dict)  # the columns that the loss needs beside these, by their names

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)


@dataclass(frozen=True)
class Pairs:
    """A finished pairs folder; `needs` are the columns to be read beside COLUMNS."""

    folder: Path
    facts: dict
    markers: tuple[Marker, ...]
    needs: tuple[str, ...] = ()

    def count(self, split: str) -> int:
        return sum(marker.counts.get(split, 0) for marker in self.markers)


def open_pairs(run: Path, needs: tuple[str, ...] = ()) -> Pairs:
    """The pairs that the run's plan names; raises UserError where they are not all there, or lack a column that the loss needs."""
    planned, shards = read_plan(run)
    folder = next((run / stage.folder for stage in planned if stage.stage == "pairs"), None)
    if folder is None:
        raise UserError(f"{run} has no pairs: its recipe had no [pairs] section; add one and run `engine precompute` again")
    markers = read_markers(folder) if folder.exists() else []
    if not (folder / "manifest.json").exists():
        raise UserError(f"{folder} is unfinished, {len(markers)} of {shards} shards are there: run `engine precompute` again to make the rest")
    pairs = Pairs(folder, read_json(folder / "manifest.json")["facts"], tuple(markers), needs)
    if not pairs.count("train"):
        held = f"{pairs.count('test')} are held out by pairs.test_share" if pairs.count("test") else f"see `engine status {run}` for what was refused"
        raise UserError(f"{folder} has no pairs to train on: {held}")
    first = next(verify(folder, file) for marker in markers for file in marker.files if file.table == "pairs")
    for name in needs:
        if name not in pq.read_schema(first).names or not pq.read_table(first, columns=[name])[name].is_valid()[0].as_py():
            raise UserError(f"the loss needs the column {name}, which {folder.name} does not have: {MADE_BY[name]}")
    return pairs


def read_shard(pairs: Pairs, shard: int, split: str) -> list[Pair]:
    """A shard's pairs of one split, in the order in which they lie."""
    found: list[Pair] = []
    for file in pairs.markers[shard].files:
        if file.table == "pairs":
            path = verify(pairs.folder, file)
            rows = pq.read_table(path, columns=[*COLUMNS, *pairs.needs], page_checksum_verification=True, partitioning=None)
            found += _pairs(rows.filter(pc.equal(rows["split"], split)), pairs.needs)
    return found


def _pairs(rows: pa.Table, needs: tuple[str, ...]) -> list[Pair]:
    flat, more = [_flat(rows[name]) for name in COLUMNS[2:]], {name: _flat(rows[name]) for name in needs}
    return [
        Pair(
            pair_id, *(values[offsets[i] : offsets[i + 1]] for values, offsets in flat),
            more={name: values[offsets[i] : offsets[i + 1]] for name, (values, offsets) in more.items()} if more else {},
        )
        for i, pair_id in enumerate(rows["pair_id"].to_pylist())
    ]  # fmt: skip


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, list[int]]:
    """A list column's values in one array, and where each row begins."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    offsets = array.offsets.to_numpy()
    return array.flatten().to_numpy(zero_copy_only=False), (offsets - offsets[0]).tolist()


def global_batches(pairs: Pairs, batch_size: int, seed: int, start: int = 0) -> Iterator[tuple[int, list[Pair]]]:
    """(epoch, the train pairs of a global step) from step `start` on, without end. An epoch's last batch may be smaller; none is dropped."""
    each = steps_per_epoch(pairs, batch_size)
    epoch, skip = divmod(start, each)
    while True:
        stream = _epoch(pairs, seed, epoch, skip * batch_size)
        for _ in range(skip, each):
            batch = [pair for _, pair in zip(range(batch_size), stream, strict=False)]
            assert batch, "the shards hold fewer pairs than their markers say"
            yield epoch, batch
        epoch, skip = epoch + 1, 0


def steps_per_epoch(pairs: Pairs, batch_size: int) -> int:
    return -(-pairs.count("train") // batch_size)


def _epoch(pairs: Pairs, seed: int, epoch: int, skip: int) -> Iterator[Pair]:
    """An epoch's train pairs in order, the first `skip` of them left out: whole shards are skipped without being read."""
    visits = []
    for shard in np.random.default_rng([seed, epoch]).permutation(len(pairs.markers)).tolist():
        count = pairs.markers[shard].counts.get("train", 0)
        if skip < count:
            visits.append((shard, skip))
        skip = max(0, skip - count)
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(read_shard, pairs, visits[0][0], "train") if visits else None
        for place, (shard, begin) in enumerate(visits):
            assert coming is not None
            rows = coming.result()
            if place + 1 < len(visits):
                coming = ahead.submit(read_shard, pairs, visits[place + 1][0], "train")
            for row in np.random.default_rng([seed, epoch, shard]).permutation(len(rows))[begin:].tolist():
                yield rows[row]


def held_out(pairs: Pairs) -> Iterator[Pair]:
    """The test pairs, always in the same order."""
    for shard in range(len(pairs.markers)):
        if pairs.markers[shard].counts.get("test"):
            yield from read_shard(pairs, shard, "test")


def deal(batch: Sequence[Pair], rank: int, world_size: int) -> list[Pair]:
    """A rank's part of a global batch: longest first, dealt there and back, so that all ranks get about as many tokens."""
    order = sorted(range(len(batch)), key=lambda i: (-batch[i].tokens, i))
    turn = [*range(world_size), *reversed(range(world_size))]
    return [batch[i] for place, i in enumerate(order) if turn[place % len(turn)] == rank]


def micro_batches(part: Sequence[Pair], budget: int) -> list[list[Pair]]:
    """Batches of at most `budget` tokens, a longer pair alone in one."""
    found: list[list[Pair]] = []
    room = 0
    for pair in part:
        if pair.tokens > room or not found:
            found.append([])
            room = budget
        found[-1].append(pair)
        room -= pair.tokens
    return found
