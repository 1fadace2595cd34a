"""RPO's claim (arXiv 2405.16436), on the sandbox and over several seeds.

Under DPO the chosen log-prob itself falls; under RPO it falls less.

    python tests/bench/over_optimisation.py [--prompts 1500] [--seeds 3] [-o over_optimisation.png]
        [--run FOLDER]

- Prompts alone become bridged pairs, once.
- Each loss is then trained on them with each seed, far beyond what is good for the policy: three epochs at a
  learning rate of 1e-4. `trainer compare` draws the curves.
- A run takes about two minutes on one core. A run that is there is not made again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
RECIPE = ROOT / "pipelines" / "recipes" / "sandbox.toml"
LOSSES = {
    "dpo": ["train.loss=dpo", "train.dpo.beta=0.05"],
    "rpo, the paper's eta": ["train.loss=rpo", "train.rpo.beta=0.05", "train.rpo.eta=0.005"],
    "rpo, ten times that": ["train.loss=rpo", "train.rpo.beta=0.05", "train.rpo.eta=0.05"],
}
LONG = ["train.epochs=3", "train.learning_rate=1e-4", "train.eval_every=20"]


def call(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def sets(values: list[str]) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def main() -> None:
    from pipelines.sandbox import world

    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--prompts", type=int, default=1500)
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--run", type=Path, help="where to make it; a temporary folder if not given")
    words.add_argument("-o", "--output", type=Path, default=Path("over_optimisation.png"))
    args = words.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = (args.run or Path(temporary) / "run").resolve()
        prompts = Path(temporary) / "prompts.jsonl"
        prompts.write_text("".join(json.dumps(row) + "\n" for row in world.prompts(1, args.prompts)))
        call("engine.cli", "precompute", RECIPE, "-o", run, *sets([f"prompts.source={prompts}"]))
        for seed in range(args.seeds):
            for name, settings in LOSSES.items():
                print(f"{name}, seed {seed}", file=sys.stderr)
                call("trainer.cli", "run", RECIPE, "-o", run, *sets([*settings, *LONG, f"seed={seed}"]))
        rows = [
            json.loads(line)
            for line in call(
                "trainer.cli", "compare", run, "-o", args.output.resolve(), "--format", "json"
            ).splitlines()
        ]
    good = True
    for run_name in dict.fromkeys(row["run"] for row in rows):
        fallen = {row["seed"]: row["drift/chosen"] for row in rows if row["run"] == run_name}
        dpo = {row["seed"]: row["drift/chosen"] for row in rows if row["run"].startswith("dpo")}
        good &= all(value < 0 for value in dpo.values()) and (
            run_name.startswith("dpo") or all(fallen[seed] > dpo[seed] for seed in dpo)
        )
        mean = sum(fallen.values()) / len(fallen)
        seeds = ", ".join(f"{value:.2f}" for value in fallen.values())
        print(f"{run_name:<16} drift of the chosen log-prob, nat: mean {mean:.2f}, seeds {seeds}")
    verdict = "holds" if good else "does not hold"
    print(
        f"{verdict}: the chosen log-prob falls under DPO, and under RPO less, for every seed; "
        f"curves: {args.output}"
    )
    sys.exit(not good)


if __name__ == "__main__":
    main()
