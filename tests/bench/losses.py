"""What a loss costs beside DPO, as ratios of a training step's time, taken side by side in one run.

    python tests/bench/losses.py RUN [--losses sr_dpo,rpo] [--rounds 5] [--pairs 32] [--json]

- Runs on the CPU. RUN is a finished run that has what the losses need.
- The same pairs go through each loss in turn (forward, backward, optimizer step), round after round. A ratio
  is of medians.
- Sr-DPO's live Δ is one more forward without gradient under the quality prompt: its paper reports 1.24.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main() -> None:
    import torch

    from schemas.identity import resolve
    from schemas.recipe import load
    from schemas.sections import Train
    from trainer import data, losses
    from trainer.dist import Ranks
    from trainer.opening import open_policy
    from trainer.optimizers import make_optimizer
    from trainer.pairs import open_pairs
    from trainer.step import Stepper

    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("run", type=Path)
    words.add_argument("--losses", default="sr_dpo")
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--pairs", type=int, default=32, help="pairs a step")
    words.add_argument("--json", action="store_true")
    args = words.parse_args()

    config = Train(learning_rate=1e-9, batch_size=args.pairs, dtype="float32")
    source = resolve(load(args.run / "recipe.toml").section("model"))
    ranks = Ranks(0, 1, torch.device("cpu"))
    parallel = open_policy(source, config, ranks)
    optimizer = make_optimizer(parallel.policy, config)
    objectives = {name: losses.choose(Train(loss=name)) for name in ("dpo", *args.losses.split(","))}
    # The same pairs in the same order for all, each with what its loss needs.
    batches = {
        name: data.global_batches(open_pairs(args.run, one.needs), args.pairs, seed=0)
        for name, one in objectives.items()
    }
    times: dict[str, list[float]] = {name: [] for name in objectives}
    for number in range(args.rounds + 1):
        for name, objective in objectives.items():
            taken = [next(batches[name])[1] for _ in range(2)]
            begun = time.perf_counter()
            for batch in taken:
                Stepper(parallel, objective, config, ranks).backward(batch)
                optimizer.step()
                optimizer.zero_grad()
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - begun)
    for name, taken in itertools.islice(times.items(), 1, None):
        ratio = statistics.median(taken) / statistics.median(times["dpo"])
        pairs = [a / b for a, b in zip(taken, times["dpo"], strict=True)]
        row = {
            "work": f"{name} over dpo, a step",
            "ratio": round(ratio, 3),
            "least": round(min(pairs), 3),
            "most": round(max(pairs), 3),
            "goal": None,
            "ok": True,
        }
        print(
            json.dumps(row)
            if args.json
            else f"{row['work']:<28} {ratio:.3f}  (rounds: {min(pairs):.3f} to {max(pairs):.3f})"
        )


if __name__ == "__main__":
    from schemas.errors import exit_on_user_error

    with exit_on_user_error("nothing is kept of it"):
        main()
