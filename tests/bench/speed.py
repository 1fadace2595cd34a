"""Ours beside TRL 1.16's DPOTrainer, as ratios of medians.

Training, the log-prob pass, the way from a raw file to the first step, and reading.

    python tests/bench/speed.py [--rounds 3] [--only train-60M,…] [--json] [--gpu]

- Both sides have the same random Llama, the same pairs of random token ids in the same order, the same
  optimizer and one core. Lengths are those of hh-harmless, or short prompts with long responses.
- Reference log-probs are cached on both sides, gradient checkpointing is off (TRL's faster setting), and both
  keep freed memory.
- Each side is a process of its own (speed_sides.py) that waits while another works. Rounds go through the
  sides in turn.
- `head` rows set TRL's CPU head to score response positions only, as its GPU path does: the fair stand-in for
  a GPU.
- Needs the extra `test`. `--gpu` runs the works meant for a GPU, where the side that waits leaves the GPU to
  the other; `--gpu --only try-train,try-logprobs` tries that way on a CPU.

A GPU machine needs no installation of this: torch (2.11 will do), transformers, accelerate, pandas, pyarrow
and click are enough. What TRL needs beside is 2 MiB of wheels that can be carried there:

    pip download --no-deps -d wheels trl==1.16.0 datasets multiprocess dill xxhash
    for wheel in wheels/*.whl; do python -m zipfile -e $wheel carried; done
    PYTHONPATH=.:carried python tests/bench/speed.py --gpu
"""

import argparse
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from speed_data import reading
from speed_raw import FirstStep, importing
from speed_rows import CORES, QUIET, line_of, row_of
from speed_sides import ours
from speed_works import GPU_WORKS, ROOT, TRIAL_WORKS, WORKS, Work, new_model, pairs_of

# Freed memory is kept on both sides: else TRL's large tensors are faulted in anew at each step, and a third
# of its time is the system's.
_KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "67108864",
}
_SIDES = Path(__file__).with_name("speed_sides.py")
WHO = ("ours", "trl", "head")
Measure = Callable[[Path], list[dict]]  # the rows of a work, made in an empty folder


class Side:
    """The processes of one side, one a rank; once ready they work when asked to and wait otherwise."""

    def __init__(self, name: str, work: Work, who: str, folder: Path, steps: int) -> None:
        env = os.environ | QUIET | _KEEP_MEMORY
        if work.device == "cpu":
            env |= {"ACCELERATE_USE_CPU": "true"}
        with socket.socket() as free:
            free.bind(("localhost", 0))
            place = {
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(free.getsockname()[1]),
                "WORLD_SIZE": str(work.ranks),
            }
        self._log = folder / f"{who}.log"
        self._ranks: list[subprocess.Popen] = []
        for rank in range(work.ranks):
            words = [
                sys.executable,
                str(_SIDES),
                name,
                who,
                str(folder),
                str(steps),
                str(CORES[rank % len(CORES)]),
            ]
            mine = env | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if work.ranks > 1 else env
            with open(self._log, "a") as log:
                self._ranks.append(
                    subprocess.Popen(
                        words,
                        env=mine,
                        cwd=ROOT,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                    )
                )

    def ready(self) -> None:
        self._answers()

    def warm_up(self) -> int:
        """Bytes at the peak."""
        return self._ask(-1)[0]["memory"]

    def step(self, number: int) -> dict:
        answers = self._ask(number)
        return answers[0] | {"seconds": max(answer["seconds"] for answer in answers)}

    def _ask(self, number: int) -> list[dict]:
        for rank in self._ranks:
            rank.stdin.write(f"{number}\n")
            rank.stdin.flush()
        return self._answers()

    def _answers(self) -> list[dict]:
        lines = [rank.stdout.readline() for rank in self._ranks]
        if not all(lines):
            sys.exit(f"a side ended:\n{self._log.read_text()[-3000:]}")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        for rank in self._ranks:
            rank.stdin.close()
        for rank in self._ranks:
            rank.wait()


def compare(name: str, work: Work, rounds: int, folder: Path) -> list[dict]:
    new_model(work.model, folder)
    sides = {
        who: Side(name, work, who, folder, rounds * work.steps)
        for who in (WHO[:2] if work.shares_gpu else WHO)
    }
    for side in sides.values():
        side.ready()  # they load side by side; from here on one works at a time
    memory = {who: side.warm_up() for who, side in sides.items()}
    steps: dict[str, list[dict]] = {who: [] for who in sides}
    for number in range(rounds * work.steps):
        for who, side in sides.items():
            steps[who].append(side.step(number))
    for side in sides.values():
        side.close()
    rates = {who: _rates(taken, work.steps) for who, taken in steps.items()}
    rows = []
    for who, label, goal, memory_goal in (
        ("trl", "TRL", work.goal, work.memory_goal),
        ("head", "TRL (head)", work.head_goal, None),
    ):
        if who in sides:
            ratio = statistics.median(rates["ours"]) / statistics.median(rates[who])
            row = row_of(f"{name}: tokens/s over {label}", ratio, goal, at_least=True)
            spread = [a / b for a, b in zip(rates["ours"], rates[who], strict=True)]
            rows.append(row | {"rounds": [float(f"{one:.3g}") for one in spread]})
            ratio = memory["ours"] / memory[who]
            rows.append(row_of(f"{name}: peak memory over {label}", ratio, memory_goal))
    if work.training and work.device == "cpu":
        label = "largest relative difference of a gradient from TRL's"
        goal = 1e-5 if work.dtype == "float32" else None
        rows.append(row_of(f"{name}: {label}", _gradients(folder), goal))
    if work.training:
        processor = "GPU" if work.device == "cuda" else "core"
        label = f"share of the {processor}'s matrix-product rate"
        share = statistics.median(step["share"] for step in steps["ours"])
        rows.append(row_of(f"{name}: {label}", share, work.share_goal, at_least=True))
    return rows


def _rates(steps: list[dict], each: int) -> list[float]:
    """Tokens a second of each round, over its `each` steps."""
    rates = []
    for begin in range(0, len(steps), each):
        part = steps[begin : begin + each]
        rates.append(sum(step["tokens"] for step in part) / sum(step["seconds"] for step in part))
    return rates


def _gradients(folder: Path) -> float:
    from safetensors.torch import load_file

    ours, trl = load_file(folder / "ours.safetensors"), load_file(folder / "trl.safetensors")
    return max(((ours[key] - trl[key]).norm() / trl[key].norm()).item() for key in trl)


def padding(folder: Path) -> list[dict]:
    """The packed pass beside our own padded one: the loss and every gradient of a batch.

    The padded one is the model's unchanged attention."""
    work = WORKS["train-5M-8"]
    new_model(work.model, folder)
    pairs = pairs_of(work.lengths, work.pairs, work.model["vocab_size"])
    packed = _loss_and_gradients(work, folder, pairs, None)
    padded = _loss_and_gradients(work, folder, pairs, "sdpa")
    differences = [((a - b).norm() / b.norm()).item() for a, b in zip(packed, padded, strict=True)]
    label = "packed = padded: largest relative difference of loss and gradients"
    return [row_of(label, max(differences), 1e-5)]


def _loss_and_gradients(work: Work, folder: Path, pairs: list, attention: str | None) -> list:
    """The loss, then the gradient of each parameter. `attention`: in place of the packed one."""
    step, model = ours(work, folder)
    if attention:
        model.config._attn_implementation = attention
    totals, _ = step(pairs)
    return [totals[0].float(), *(parameter.grad for parameter in model.parameters())]


def _cpu_works(rounds: int) -> dict[str, Measure]:
    return _comparisons(WORKS, rounds) | {
        "first-step": lambda folder: FirstStep(folder, 10_000).rows(rounds),
        "import": lambda folder: importing(rounds, folder),
        "reading": lambda folder: reading(rounds, folder),
        "packed-padded": padding,
    }


def _gpu_works(rounds: int) -> dict[str, Measure]:
    return _comparisons(GPU_WORKS | TRIAL_WORKS, rounds)


def _comparisons(works: dict[str, Work], rounds: int) -> dict[str, Measure]:
    """A comparison with TRL for each work, by its name."""
    return {name: partial(compare, name, work, rounds) for name, work in works.items()}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument(
        "--gpu", action="store_true", help=f"{', '.join(GPU_WORKS)}, in place of the CPU's works"
    )
    words.add_argument("--only", default="", help="some works, by name, with commas between them")
    words.add_argument("--json", action="store_true", help="an object a row")
    args = words.parse_args()
    works = _gpu_works(args.rounds) if args.gpu else _cpu_works(args.rounds)
    wanted = [name for name in args.only.split(",") if name] or [
        name for name in works if name not in TRIAL_WORKS
    ]
    if unknown := set(wanted) - set(works):
        sys.exit(f"--only {', '.join(unknown)}: expected some of {', '.join(works)}")
    if set(wanted) - {"reading", "packed-padded"} and not importlib.util.find_spec("trl"):
        sys.exit("TRL is not here: pip install -e '.[test]'")
    for name in wanted:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            for row in works[name](Path(folder)):
                print(json.dumps(row) if args.json else line_of(row), flush=True)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
