"""Pairs to batches, in constant memory.

- The order is a function of (seed, epoch); a position in it is one integer, the step. Shards are visited in a
  shuffled order and the rows of each are shuffled; since a digest decides a pair's shard, that is a shuffle
  of the whole.
- Every rank reads the same stream and takes its part of each global batch, so a global step holds the same
  pairs whatever the number of ranks.
- Pairs of like length can be grouped within a window of global batches, and only there.
- The next shard is read in a thread while this one is trained on.
"""

import heapq
import itertools
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from trainer.pairs import Pair, Pairs, Rows, read_shard


def global_batches(
    pairs: Pairs, batch_size: int, seed: int, start: int = 0, look_ahead: int = 1
) -> Generator[tuple[int, list[Pair]]]:
    """(epoch, the train pairs of a global step) from step `start` on, without end.

    An epoch's last batch may be smaller; no pair is dropped. The pairs of `look_ahead` batches at a time are
    grouped by length, and the batches made of them come in a shuffled order (the smaller one somewhere among
    the last of them)."""
    steps = steps_per_epoch(pairs, batch_size)
    epoch, skip = divmod(start, steps)
    while True:
        window, skip = divmod(skip, look_ahead)
        first_step = window * look_ahead
        stream = _pairs_of_epoch(
            pairs,
            seed=seed,
            epoch=epoch,
            skip=first_step * batch_size,
        )
        for step in range(first_step, steps, look_ahead):
            ahead = list(itertools.islice(stream, look_ahead * batch_size))
            batches = _grouped_by_length(ahead, batch_size, [seed, epoch, step, look_ahead])
            expected = min(look_ahead, steps - step)
            assert len(batches) == expected, "the shards hold fewer pairs than their markers say"
            for batch in batches[skip:]:
                yield epoch, batch
            skip = 0
        epoch += 1


def _grouped_by_length(ahead: list[Pair], batch_size: int, seed: Sequence[int]) -> list[list[Pair]]:
    """Batches of pairs alike in length, in a shuffled order."""
    if len(ahead) > batch_size:
        ahead.sort(key=_length_for_grouping, reverse=True)
    batches = [ahead[begin : begin + batch_size] for begin in range(0, len(ahead), batch_size)]
    order = np.random.default_rng(seed).permutation(len(batches)).tolist()
    return [batches[place] for place in order]


def _length_for_grouping(pair: Pair) -> int:
    """The tokens that every loss reads, and no others: so the order is the same for all losses."""
    return len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)


def steps_per_epoch(pairs: Pairs, batch_size: int) -> int:
    """Global steps of an epoch, the last one maybe smaller."""
    return -(-pairs.count("train") // batch_size)


def _pairs_of_epoch(pairs: Pairs, seed: int, epoch: int, skip: int) -> Iterator[Pair]:
    """An epoch's train pairs in order, without the first `skip`. Shards skipped as a whole are not read."""
    visits: list[tuple[int, int]] = []  # (shard, how many of its pairs to skip)
    for shard in np.random.default_rng([seed, epoch]).permutation(len(pairs.markers)).tolist():
        count = pairs.markers[shard].counts.get("train", 0)
        if skip < count:
            visits.append((shard, skip))
        skip = max(0, skip - count)
    with ThreadPoolExecutor(1) as reader:

        def start_reading(place: int) -> Future[Rows] | None:
            """Read the shard of a visit in the thread; None after the last visit."""
            if place >= len(visits):
                return None
            shard, _ = visits[place]
            return reader.submit(read_shard, pairs, shard, "train")

        coming = start_reading(0)
        for place, (shard, skip_here) in enumerate(visits):
            assert coming is not None
            rows = coming.result()
            coming = start_reading(place + 1)
            order = np.random.default_rng([seed, epoch, shard]).permutation(len(rows))
            for row in order[skip_here:].tolist():
                yield rows[row]


def held_out(pairs: Pairs) -> Iterator[Pair]:
    """The test pairs, always in the same order."""
    for shard, marker in enumerate(pairs.markers):
        if marker.counts.get("test"):
            yield from read_shard(pairs, shard, "test")


def in_batches(pairs: Iterator[Pair], size: int) -> Iterator[list[Pair]]:
    """Lists of `size` pairs, the last one maybe shorter."""
    while batch := list(itertools.islice(pairs, size)):
        yield batch


def deal(batch: Sequence[Pair], world_size: int) -> list[list[Pair]]:
    """Each rank's part of a global batch.

    Each pair, the longest first, goes to the rank with the fewest tokens (Graham 1969), so that no rank waits
    long for another."""
    loads = [(0, rank) for rank in range(world_size)]  # a heap: the least first
    parts: list[list[Pair]] = [[] for _ in range(world_size)]
    longest_first = sorted(batch, key=most_tokens, reverse=True)
    for pair in longest_first:
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + pair.most_tokens, rank))
        parts[rank].append(pair)
    return parts


def most_tokens(pair: Pair) -> int:
    """What `deal` balances between ranks."""
    return pair.most_tokens


def micro_batches(part: Sequence[Pair], budget: int) -> list[list[Pair]]:
    """Batches of at most `budget` tokens. A pair that is longer by itself is a batch of its own."""
    batches: list[list[Pair]] = []
    room = 0
    for pair in part:
        if pair.most_tokens > room or not batches:
            batches.append([])
            room = budget
        batches[-1].append(pair)
        room -= pair.most_tokens
    return batches
