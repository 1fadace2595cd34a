"""What grows with a run, and what does not: seconds and memory of what reads a large run folder.

    python tests/bench/large.py --pairs 10000 100000 1000000 [--shards N] [--stages 4|8] [--folder DIR]

For each number of pairs a run is generated (tests/bench/large_run.py), with a shard for each 1,221 of them as
the engine cuts them, or as many as --shards says. Then each of these is a process of its own. What is printed
of it: the time from its start to its end, the first time and, with what is remembered by then, a second time;
the processor's time of the second; the largest memory.

status     `engine status`
count      `engine sql`: count(*) of pairs
limit      one row of pairs
by id      the pair of one id
join       pairs joined with the log-probs of their chosen responses, counted
missing    what `engine precompute` does before it says that there is nothing to do
trainer    what `trainer run` does before its first step, and the batches of ten steps
order      an epoch's order of shards and rows, without reading them
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))
_PAIRS_A_SHARD = 1221
_QUERIES = {
    "count": "select count(*) from pairs",
    "limit": "select pair_id from pairs limit 1",
    "by id": "select pair_id, chosen_ids from pairs where pair_id = '{pair_id}'",
    "join": "select count(*) from pairs join logprobs on response_id = chosen_response_id",
}


def missing(run: str) -> None:
    import pipelines  # noqa: F401
    from engine import gaps
    from engine.plan import plan
    from schemas.recipe import load_of_run
    from schemas.store import open_store

    store = open_store(run)
    found = gaps.missing(plan(store, load_of_run(store)))
    assert not found, len(found)


def trainer(run: str) -> None:
    import itertools

    from trainer import data
    from trainer.pairs import open_pairs

    for _, batch in itertools.islice(data.global_batches(open_pairs(run), 64, seed=1), 10):
        assert batch


def order(run: str) -> None:
    import numpy as np

    from trainer.pairs import open_pairs

    pairs = open_pairs(run)
    rows = 0
    for shard in np.random.default_rng([1, 0]).permutation(len(pairs.markers)).tolist():
        count = pairs.markers[shard].counts["train"]
        rows += len(np.random.default_rng([1, 0, shard]).permutation(count))
    assert rows == pairs.count("train")


def generate(folder: str, pairs: str, shards: str, stages: str) -> None:
    from large_run import recipe_of, write_run

    write_run(Path(folder) / "run", recipe_of(Path(folder), int(shards), int(stages)), int(pairs))


_OWN = {"missing": missing, "trainer": trainer, "order": order}


def words_of(name: str, run: Path, pair_id: str) -> list[str]:
    """The command of a measurement."""
    if name == "status":
        return ["-m", "engine.cli", "status", str(run)]
    if name in _QUERIES:
        query = _QUERIES[name].format(pair_id=pair_id)
        return ["-m", "engine.cli", "sql", str(run), query, "--format", "csv", "--timeout", "3600"]
    return [__file__, "--measure", name, str(run)]


def measured(words: list[str], cache: Path) -> tuple[float, float, int]:
    """Seconds of a process, those of the processor, and the largest memory in MB of it or what it starts."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    environment["OMP_NUM_THREADS"] = "1"
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    assert status == 0, said
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss >> 10


def one_pair_id(run: str) -> None:
    import pyarrow.parquet as pq

    path = sorted(Path(run).glob("pairs-*/*.pairs.parquet"))[0]
    print(pq.read_table(path, columns=["pair_id"])["pair_id"][0].as_py())


def measure_run(folder: Path, pairs: int, shards: int, stages: int, names: list[str]) -> list[dict]:
    """Generate a run and measure what reads it."""
    run = folder / "run"
    begun = time.perf_counter()
    if not (run / "plan.json").exists():
        # In a process of its own: a process begins with the largest memory of the one that starts it.
        measured(
            [__file__, "--generate", str(folder), str(pairs), str(shards), str(stages)], folder / "cache"
        )
    size = sum(path.stat().st_size for path in run.rglob("*"))
    print(
        f"{pairs:,} pairs, {shards:,} shards x {stages} stages: {size / 1e9:.2f} GB, "
        f"generated in {time.perf_counter() - begun:.0f} s",
        flush=True,
    )
    cache = folder / "cache"
    pair_id = subprocess.check_output([sys.executable, __file__, "--measure", "one_pair_id", str(run)])
    rows: list[dict] = []
    for name in names:
        words = words_of(name, run, pair_id.decode().strip())
        first, _, memory = measured(words, cache)
        again, processor, _ = measured(words, cache)
        row = {"what": name, "first": first, "again": again, "processor": processor, "MB": memory}
        rows.append(row)
        times = f"{first:7.2f} s  again {again:7.2f} s  processor {processor:7.2f} s"
        print(f"  {name:<10} {times}  {memory:6,} MB", flush=True)
    return [row | {"pairs": pairs, "shards": shards, "stages": stages} for row in rows]


def main() -> None:
    every = ["status", *_QUERIES, *_OWN]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--generate", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--shards", type=int, default=0)
    parser.add_argument("--stages", type=int, choices=(4, 8), default=4)
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    parser.add_argument("--folder", type=Path, default=Path("large"))
    parser.add_argument("--keep", action="store_true", help="leave the runs there, to measure them again")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.measure:
        (_OWN | {"one_pair_id": one_pair_id})[args.measure[0]](args.measure[1])
        return
    if args.generate:
        generate(*args.generate)
        return
    rows: list[dict] = []
    for pairs in args.pairs:
        shards = args.shards or max(1, pairs // _PAIRS_A_SHARD)
        folder = args.folder / f"{pairs}-{shards}-{args.stages}"
        rows += measure_run(folder.absolute(), pairs, shards, args.stages, args.only)
        if not args.keep:
            shutil.rmtree(folder)
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
