"""Does judging work with a real chat model: how many responses get a mark, and how surely it gives one.

    python tests/bench/judging.py MODEL FILE [--prompts 200] [--kinds rating,pairwise]

MODEL is a chat model's folder (`python tests/real/smollm2.py FOLDER` makes one), FILE has preference pairs
whose responses are judged. For each kind: scores, the share that is not null, and the mean of the
probability that the answer begins with a mark at all, before it is renormalised. The goals are GOALS, below.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOALS = {"scored": 0.95, "mass": 0.8}
_RECIPE = """
[model]
name = "{model}"
[prompts]
source = "{source}"
limit = {prompts}
[given]
[judge]
kinds = {kinds}
"""
_QUERY = (
    "select scorer, count(*) as scores, avg((score is not null)::int) as scored, avg(mass) as mass, "
    "avg(agreed::int) as orders_agree from scores where scorer <> 'given' group by scorer order by scorer"
)


def engine(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--kinds", default="rating,pairwise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.toml"
        run = str(Path(folder) / "run")
        text = _RECIPE.format(
            model=options.model.resolve(),
            source=options.file.resolve(),
            prompts=options.prompts,
            kinds=json.dumps(options.kinds.split(",")),
        )
        recipe.write_text(text)
        begin = time.perf_counter()
        print(engine("precompute", str(recipe), "-o", run))
        seconds = time.perf_counter() - begin
        for line in engine("sql", run, _QUERY, "--format", "json").splitlines():
            row = json.loads(line)
            reached = all(row[name] >= goal for name, goal in GOALS.items())
            print(
                f"{row['scorer']:9} {row['scores']:,} scores: {row['scored']:.1%} with a mark, mean mass "
                f"{row['mass']:.3f}, both orders agree {row['orders_agree']}, "
                f"goals {'reached' if reached else 'missed'}"
            )
        print(f"{seconds:.0f} s")


if __name__ == "__main__":
    main()
