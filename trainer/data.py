"""Shards of pairs to batches, in constant memory: the order is a function of (seed, epoch), a position in it is one integer.

Shards are visited in a shuffled order and the rows of each are shuffled; since a pair's shard is settled by a digest, that is a shuffle of
the whole. Every rank reads the same stream and takes its part of each global batch, so a global step holds the same pairs whatever the
number of ranks. Pairs of like length can be brought together within a window of global batches, and only there. The next shard is read in
a thread while this one is trained on; no token passes through a Python list.
"""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import UserError
from schemas.manifest import Marker, read_json, read_markers, read_plan, verify
from schemas.tables import TABLES
from trainer.needs import SCORE_COLUMNS, need_of

COLUMNS = (
    "pair_id",
    "split",
    "prompt_ids",
    "chosen_ids",
    "rejected_ids",
    "ref_chosen_token_logps",
    "ref_rejected_token_logps",
)

_NONE: dict = {}


class Pair(NamedTuple):
    """Views into a shard's flat arrays: token ids int32, reference log-probs float32, one for each response token."""

    pair_id: str
    prompt_ids: np.ndarray
    chosen_ids: np.ndarray
    rejected_ids: np.ndarray
    ref_chosen_token_logps: np.ndarray
    ref_rejected_token_logps: np.ndarray
    more: dict[str, np.ndarray] = _NONE  # the columns that the loss needs beside these, by their names
    scores: dict[str, tuple[float, float]] = _NONE  # scorer -> of the chosen response, of the rejected one

    @property
    def tokens(self) -> int:
        return (
            len(self.prompt_ids)
            + len(self.chosen_ids)
            + len(self.rejected_ids)
            + len(self.more.get("baseline_ids", ()))
        )

    @property
    def most(self) -> int:
        """Tokens of its longest forward: that under the quality prompt may be longer."""
        return self.tokens + max(0, len(self.more.get("quality_prompt_ids", ())) - len(self.prompt_ids))

    def column(self, name: str) -> np.ndarray:
        return self.more[name] if name in self.more else getattr(self, name)


@dataclass(frozen=True)
class Pairs:
    """A finished pairs folder; `needs` is what is read beside COLUMNS, by the names of trainer/needs.py."""

    folder: Path
    facts: dict
    markers: tuple[Marker, ...]
    needs: tuple[str, ...] = ()

    def count(self, split: str) -> int:
        return sum(marker.counts.get(split, 0) for marker in self.markers)


def open_pairs(run: Path, needs: tuple[str, ...] = (), loss: str = "the loss") -> Pairs:
    """The pairs that the run's plan names; raises UserError where they are not all there, or lack a column that the loss needs."""
    planned, shards = read_plan(run)
    folder = next((run / stage.folder for stage in planned if stage.stage == "pairs"), None)
    if folder is None:
        raise UserError(
            f"{run} has no pairs: its recipe had no [pairs] section; add one and run `engine precompute` again"
        )
    markers = read_markers(folder) if folder.exists() else []
    if not (folder / "manifest.json").exists():
        raise UserError(
            f"{folder} is unfinished, {len(markers)} of {shards} shards are there: run `engine precompute` again to make the rest"
        )
    pairs = Pairs(folder, read_json(folder / "manifest.json")["facts"], tuple(markers), needs)
    if not pairs.count("train"):
        held = (
            f"{pairs.count('test')} are held out by pairs.test_share"
            if pairs.count("test")
            else f"see `engine status {run}` for what was refused"
        )
        raise UserError(f"{folder} has no pairs to train on: {held}")
    for need in needs:
        _check(pairs, need, loss)
    return pairs


def _check(pairs: Pairs, need: str, loss: str) -> None:
    """Raises UserError where not every pair has what the loss needs: the engine has counted, no shard is read."""
    have, total = pairs.count(f"have_{need}"), pairs.count("train") + pairs.count("test")
    if have < total and not pairs.count("have_edit_mask"):
        raise UserError(
            f"{loss} needs {need_of(need).what}, and {pairs.folder}, which an older prefmill made, does not say whether it has them: run `engine precompute` again"
        )
    if have < total:
        wanted = need_of(need)
        remedy = wanted.remedy
        lack = f"{total - have:,} of {total:,} pairs lack" if have else f"{pairs.folder.name} lacks"
        if have:  # only a score can be there for some
            remedy = f'set scored_by = ["{need.removeprefix("score.")}"] in [pairs], which sends those pairs to rejects'
        raise UserError(
            f"{loss} needs {wanted.what} (columns {', '.join(wanted.columns)}), which {lack}: {remedy}, and run `engine precompute` again"
        )


class Rows(Sequence[Pair]):
    """A shard's pairs of one split, in the order in which they lie: each column one flat array. A pair's views are made when it is asked for."""

    def __init__(self, rows: pa.Table, needs: tuple[str, ...], split: str) -> None:
        self._where = [
            row for row, its in enumerate(rows["split"].to_pylist()) if its == split
        ]  # not Table.filter: it would copy every token
        self._pair_ids = rows["pair_id"].to_pylist()
        self._columns = [_flat(rows[name]) for name in COLUMNS[2:]]
        self._more = {
            name: _flat(rows[name])
            for need in needs
            if not need.startswith("score.")
            for name in need_of(need).columns
        }
        self._scores = {
            scorer: _scores(rows, scorer) for need in needs if (scorer := need.removeprefix("score.")) != need
        }

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, place: int) -> Pair:
        row = self._where[place]
        more = (
            {name: values[ends[row] : ends[row + 1]] for name, (values, ends) in self._more.items()}
            if self._more
            else _NONE
        )
        scores = {scorer: both[row] for scorer, both in self._scores.items()} if self._scores else _NONE
        return Pair(
            self._pair_ids[row],
            *[values[ends[row] : ends[row + 1]] for values, ends in self._columns],
            more,
            scores,
        )


def read_shard(pairs: Pairs, shard: int, split: str) -> Rows:
    """A shard's pairs of one split."""
    columns = {column: None for need in pairs.needs for column in need_of(need).columns}
    # A pairs folder has one file a shard, and none where the shard has no pairs. ParquetFile: a third faster here than read_table.
    tables = [
        pq.ParquetFile(verify(pairs.folder, file), page_checksum_verification=True).read([*COLUMNS, *columns])
        for file in pairs.markers[shard].files
        if file.table == "pairs"
    ]
    return Rows(pa.concat_tables(tables or [TABLES["pairs"].empty_table()]), pairs.needs, split)


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, list[int]]:
    """A list column as one array and, row by row, where in it a row begins (and at last, where the last one ends)."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    offsets = array.offsets.to_numpy()
    return array.flatten().to_numpy(zero_copy_only=False), (offsets - offsets[0]).tolist()


def _scores(rows: pa.Table, scorer: str) -> list[tuple[float, float]]:
    """A scorer's scores of each row's two responses."""
    chosen, rejected = (
        pc.map_lookup(rows[name], pa.scalar(scorer), "first").to_pylist() for name in SCORE_COLUMNS
    )
    return list(zip(chosen, rejected, strict=True))


def global_batches(
    pairs: Pairs, batch_size: int, seed: int, start: int = 0, look_ahead: int = 1
) -> Iterator[tuple[int, list[Pair]]]:
    """(epoch, the train pairs of a global step) from step `start` on, without end. An epoch's last batch may be smaller; none is dropped.

    Of `look_ahead` batches at a time the pairs are brought together by length, and the batches made of them come in a shuffled order (the smaller
    one somewhere among the last of them)."""
    each = steps_per_epoch(pairs, batch_size)
    epoch, skip = divmod(start, each)
    while True:
        window, skip = divmod(skip, look_ahead)
        stream = _epoch(pairs, seed, epoch, window * look_ahead * batch_size)
        for first in range(window * look_ahead, each, look_ahead):
            ahead = list(itertools.islice(stream, look_ahead * batch_size))
            batches = _like_lengths(ahead, batch_size, [seed, epoch, first, look_ahead])
            assert len(batches) == min(look_ahead, each - first), (
                "the shards hold fewer pairs than their markers say"
            )
            for batch in batches[skip:]:
                yield epoch, batch
            skip = 0
        epoch += 1


def _like_lengths(ahead: list[Pair], batch_size: int, seed: Sequence[int]) -> list[list[Pair]]:
    """Batches of pairs alike in length, in a shuffled order."""
    if len(ahead) > batch_size:
        # Not by what only some losses read: the order is the same for all of them.
        ahead.sort(key=lambda pair: -len(pair.prompt_ids) - len(pair.chosen_ids) - len(pair.rejected_ids))
    batches = [ahead[at : at + batch_size] for at in range(0, len(ahead), batch_size)]
    return [batches[place] for place in np.random.default_rng(seed).permutation(len(batches)).tolist()]


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
    """A rank's part of a global batch: each pair, the longest first, goes to the rank with the fewest tokens (Graham 1969), so that none waits for another."""
    loads, part = [0] * world_size, []
    for place in sorted(range(len(batch)), key=lambda place: (-batch[place].most, place)):
        least = loads.index(min(loads))
        loads[least] += batch[place].most
        if least == rank:
            part.append(batch[place])
    return part


def micro_batches(part: Sequence[Pair], budget: int) -> list[list[Pair]]:
    """Batches of at most `budget` tokens, a longer pair alone in one."""
    found: list[list[Pair]] = []
    room = 0
    for pair in part:
        if pair.most > room or not found:
            found.append([])
            room = budget
        found[-1].append(pair)
        room -= pair.most
    return found
