"""Peak memory of the import and of the trainer's data path: it must not grow with the number of pairs.

    .venv/bin/python tests/bench/memory.py [--pairs 10000 100000 1000000] [--json]

- Every shard holds about 5,000 pairs, whatever their number. Each size runs in processes of its own, on
  generated rows of about 0.4 kB.
- `prompts` is the recipe's [prompts] and [given]: reading, checking, partitioning by shard, deduplicating.
- `precompute` is the whole recipe with a tiny model. It takes a while, so it runs up to --precompute-pairs
  only.
- `reading` is one epoch of the trainer's batches over the pairs that `precompute` made.
- Prints the peak resident memory above that of an idle process with the same imports, and the ratio to the
  smallest size.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
LINE = (
    "{work:<12} {pairs:>9,} pairs  {mb:>6,} MB  {ratio:>5.2f} x the smallest  {pairs_per_second:>8,} pairs/s"
)


def write(path: Path, pairs: int) -> None:
    from pipelines.sandbox import world

    draw = random.Random(1)
    words = [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "zeta",
        "eta",
        "theta",
        "iota",
        "kappa",
        "lambda",
        "mu",
    ]
    with open(path, "w") as file:
        for number, problem in enumerate(world.pairs(1, pairs)):
            pad = " ".join(draw.choices(words, k=8))
            row = {
                "prompt": f"{number} {problem['prompt']}",
                "chosen": f"{problem['chosen']} {pad}",
                "rejected": f"{problem['rejected']} {pad[::-1]}",
            }
            file.write(json.dumps(row) + "\n")


def count_lines(path: Path) -> int:
    with open(path) as file:
        return sum(1 for _ in file)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(work: str, folder: Path, out: Path) -> dict:
    from engine.commands.precompute import precompute
    from schemas.devices import cores
    from schemas.recipe import load

    recipe = out / f"{work}.toml"
    sections = "[prompts]\n[given]\n"
    if work != "prompts":
        sections += "[logprobs]\ntoo_long=['truncate_prompt_left','truncate_response']\n[pairs]\n"
    recipe.write_text(f"[model]\n{sections}")
    rows = folder / "rows.jsonl"
    row_count = count_lines(rows)
    settings = [
        f"prompts.shards={max(1, row_count // 5000)}",
        f"prompts.source={rows}",
        "prompts.format=preference",
        f"model.name={folder / 'model'}",
    ]
    if work == "reading":
        import torch

        from trainer import data
        from trainer.pairs import open_pairs

        pairs = open_pairs(out / "run")
        before, begun, tokens = peak_mb(), time.perf_counter(), 0
        for _, (_, batch) in zip(
            range(data.steps_per_epoch(pairs, 64)), data.global_batches(pairs, 64, 0), strict=False
        ):
            tokens += sum(pair.tokens for pair in batch)
        return {"mb": peak_mb() - before, "rate": pairs.count("train") / (time.perf_counter() - begun)}
    import torch

    torch.set_num_threads(cores())
    before, begun = peak_mb(), time.perf_counter()
    precompute(out / "run" if work == "precompute" else out / "imported", load(recipe, settings), 1)
    seconds = time.perf_counter() - begun
    return {"mb": peak_mb() - before, "rate": row_count / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--precompute-pairs", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child[0], Path(args.child[1]), Path(args.child[2]))))
        return
    from pipelines.sandbox.make import new_model, save

    first: dict[str, float] = {}
    for pairs in args.pairs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder / "rows.jsonl", pairs)
            tokenizer, model = new_model(
                0,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
            )
            save(tokenizer, model, folder / "model")
            for work in ["prompts"] + ["precompute", "reading"] * (pairs <= args.precompute_pairs):
                done = subprocess.run(
                    [sys.executable, __file__, "--child", work, name, name],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                row = json.loads(done.stdout.splitlines()[-1])
                first.setdefault(work, row["mb"])
                row = {
                    "work": work,
                    "pairs": pairs,
                    "mb": round(row["mb"]),
                    "ratio": round(row["mb"] / max(first[work], 1), 2),
                    "pairs_per_second": round(row["rate"]),
                }
                print(json.dumps(row) if args.json else LINE.format(**row), flush=True)


if __name__ == "__main__":
    main()
