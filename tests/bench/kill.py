"""Kill -9 at random moments: a run that is killed N times ends in the bytes of a run that is not killed.

    .venv/bin/python tests/bench/kill.py --source FILE --model FOLDER [--kills 10] [--seed 0] [--steps 30]

- Checks `engine precompute` (8 shards) and then `trainer run` (a checkpoint every 3 steps), on data and a
  model of yours. After each kill the command is started again.
- The moments are drawn over the length of the undisturbed run, so they fall everywhere in it.
- Prints each moment, and whether every file is the same.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.trees import tree  # noqa: E402


def undisturbed(words: list[str]) -> float:
    begun = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begun


def killed(
    words: list[str], out: Path, start: Path | None, kills: int, length: float, draw: random.Random
) -> int:
    """Start the command again and again until `kills` have met it at work, then let it end.

    Returns how often it had to begin anew, because it ended before its moment came."""
    met = anew = 0
    while met < kills:
        # Past the imports, and short enough that all of them together are about one run.
        after = draw.uniform(0.5, 4.0 + length / kills)
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            met += 1
            print(f"  {met}: killed after {after:.2f} s", flush=True)
        else:
            anew += 1
            shutil.rmtree(out)
            if start:
                shutil.copytree(start, out)
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return anew


def compare(one: Path, other: Path) -> bool:
    a, b = tree(one), tree(other)
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            print(f"  differs: {name}")
    return a == b


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    draw, recipe, good = random.Random(args.seed), str(ROOT / "pipelines" / "recipes" / "dpo.toml"), True
    with tempfile.TemporaryDirectory() as name:
        one, other = Path(name) / "one", Path(name) / "other"
        engine = [
            sys.executable,
            "-m",
            "engine.cli",
            "precompute",
            recipe,
            "--set",
            f"prompts.source={args.source}",
            "--set",
            f"model.name={args.model}",
            "--set",
            "prompts.shards=8",
            "-o",
        ]
        trainer = [
            sys.executable,
            "-m",
            "trainer.cli",
            "run",
            recipe,
            "--set",
            f"train.max_steps={args.steps}",
            "--set",
            "train.save_every=3",
            "--set",
            "train.batch_size=16",
            "-o",
        ]
        for what, words in (("precompute", engine), ("training", trainer)):
            start = None
            if what == "training":
                start = Path(name) / "start"
                shutil.copytree(one, start)
            length = undisturbed([*words, str(one)])
            print(f"{what}: {length:.1f} s undisturbed", flush=True)
            anew = killed([*words, str(other)], other, start, args.kills, length, draw)
            same = compare(one, other)
            good &= same
            verdict = "the same bytes" if same else "OTHER BYTES"
            print(
                f"{what}: killed {args.kills} times at work, begun anew {anew} times; "
                f"{verdict} ({len(tree(one))} files)",
                flush=True,
            )
    sys.exit(not good)


if __name__ == "__main__":
    main()
