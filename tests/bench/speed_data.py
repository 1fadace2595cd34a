"""The part of `speed.py` that times the trainer's data path: reading shards, ordering, dealing, packing."""

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from speed_rows import CORES, row_of
from speed_sides import ours, pin
from speed_works import DIALOGUES, WORKS, Work, new_model, pairs_of

_COLUMNS = (
    "pair_id",
    "prompt_ids",
    "chosen_ids",
    "rejected_ids",
    "ref_chosen_token_logps",
    "ref_rejected_token_logps",
)
_SHARDS = 4
_PAIRS_PER_SHARD = 10_000


def reading(rounds: int, folder: Path) -> list[dict]:
    """Pairs a second of the trainer's reader, and what the data path takes of a training step.

    The reader is given shards as the engine writes them; it checks their digests at the first reading. The
    data path is all that happens to the data: order, ranks, micro-batches, layout."""
    import pyarrow as pa
    import torch

    pa.set_cpu_count(1)
    torch.set_num_threads(1)
    pin(CORES[0])
    work = WORKS["train-5M-8"]
    opened = _written_pairs(folder)
    flat_rates: list[float] = []
    view_rates: list[float] = []
    for _ in range(3 * rounds):
        flat_rates.append(_reading_rate(opened, len))
        view_rates.append(_reading_rate(opened, lambda rows: sum(1 for _ in rows)))
    handled = _seconds_a_pair_handled(opened, work)
    trained = _seconds_a_pair_trained(work, folder)
    return [
        row_of(
            "reading shards to flat arrays, thousand pairs/s",
            statistics.median(flat_rates) / 1000,
            300,
            at_least=True,
        ),
        row_of("the same, and every pair's views made", statistics.median(view_rates) / 1000, None),
        row_of("the data's whole way to the model over a training step, 5 M", handled / trained, 0.01),
    ]


def _written_pairs(folder: Path):
    """The trainer's view of a folder of pairs, with the same rows in each of its shards."""
    from engine.make import write_parquet
    from schemas.digest import sha256_file
    from schemas.manifest import File, Marker
    from schemas.store import open_store
    from schemas.tables import table
    from trainer.pairs import Pairs

    pairs = pairs_of(DIALOGUES, _PAIRS_PER_SHARD, 32000)
    columns = {}
    for name in _COLUMNS:
        columns[name] = [getattr(pair, name) for pair in pairs]
    columns["split"] = ["train"] * len(pairs)
    rows = table("pairs", columns)
    markers = []
    for shard in range(_SHARDS):
        path = folder / f"{shard:05}.pairs.parquet"
        write_parquet(rows, path)
        file = File(path.name, "pairs", len(rows), sha256_file(path))
        markers.append(Marker(shard, (file,), {}, {"train": len(rows)}))
    return Pairs(open_store(folder), {}, tuple(markers))


def _reading_rate(opened, count: Callable) -> float:
    """Pairs a second over all shards; `count` takes a shard's rows and says how many they are."""
    from trainer.pairs import read_shard

    begun = time.perf_counter()
    pairs = 0
    for shard in range(_SHARDS):
        pairs += count(read_shard(opened, shard, "train"))
    return pairs / (time.perf_counter() - begun)


def _seconds_a_pair_handled(opened, work: Work) -> float:
    """From the shards to packed micro-batches, over as many pairs as a shard has."""
    from schemas.forward.layout import pack
    from trainer import data

    steps = _PAIRS_PER_SHARD // work.pairs
    begun = time.perf_counter()
    for _, batch in itertools.islice(data.global_batches(opened, work.pairs, seed=1), steps):
        for part in data.micro_batches(data.deal(batch, 1)[0], 2048):
            pack([(pair.prompt_ids, (pair.chosen_ids, pair.rejected_ids)) for pair in part])
    return (time.perf_counter() - begun) / _PAIRS_PER_SHARD


def _seconds_a_pair_trained(work: Work, folder: Path) -> float:
    """Forward and backward of our own training step."""
    new_model(work.model, folder)
    step, _ = ours(work, folder)
    pairs = pairs_of(DIALOGUES, 4 * work.pairs, work.model["vocab_size"])
    step(pairs[: work.pairs])  # warms up
    begun = time.perf_counter()
    step(pairs)
    return (time.perf_counter() - begun) / len(pairs)
