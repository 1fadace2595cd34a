"""Ours beside TRL 1.16's DPOTrainer, as ratios of medians: training and the log-prob pass, from the raw file to the first step, reading.

    python tests/bench/speed.py [--rounds 3] [--only train-60M,…] [--json] [--gpu]

Same random Llama, same pairs of random token ids in the same order, same optimizer, one core; lengths are those of hh-harmless, or short prompts with
long responses. Reference log-probs are cached on both sides, gradient checkpointing is off (TRL's faster setting), both keep freed memory. Each side
is a process of its own (speed_sides.py) that waits while another works; rounds go through the sides in turn. `head` rows set TRL's CPU head to score
response positions only, as its GPU path does: the fair stand-in for a GPU. Needs the extra `test`. `--gpu` runs the works meant for one.
"""

import argparse
import importlib.util
import itertools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from speed_sides import DIALOGUES, GPU_WORKS, ROOT, WORKS, Work, new_model, ours, pairs_of, pin

# Freed memory is kept on both sides: else TRL's large tensors are faulted in anew at each step, and a third of its time is the system's.
_KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "67108864",
}
_QUIET = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
}
_SIDES = Path(__file__).with_name("speed_sides.py")
_CORES = sorted(os.sched_getaffinity(0))
WHO = ("ours", "trl", "head")


class Side:
    """The processes of one side, one a rank; once ready they work when asked to and wait otherwise."""

    def __init__(self, name: str, work: Work, who: str, folder: Path, steps: int) -> None:
        env = os.environ | _QUIET | _KEEP_MEMORY
        if work.device == "cpu":
            env |= {"ACCELERATE_USE_CPU": "true"}
        with socket.socket() as free:
            free.bind(("localhost", 0))
            place = {
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(free.getsockname()[1]),
                "WORLD_SIZE": str(work.ranks),
            }
        self._log, self._ranks = folder / f"{who}.log", []
        for rank in range(work.ranks):
            words = [
                sys.executable,
                str(_SIDES),
                name,
                who,
                str(folder),
                str(steps),
                str(_CORES[rank % len(_CORES)]),
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
        for who in (WHO if work.device == "cpu" else WHO[:2])
    }
    for side in sides.values():
        side.ready()  # they load side by side; from here on one works at a time
    memory = {who: side.warm_up() for who, side in sides.items()}
    found: dict[str, list[dict]] = {who: [] for who in sides}
    for number in range(rounds * work.steps):
        for who, side in sides.items():
            found[who].append(side.step(number))
    for side in sides.values():
        side.close()

    def rates(who: str) -> list[float]:
        """Tokens a second of each round, over its steps."""
        each = [found[who][at : at + work.steps] for at in range(0, len(found[who]), work.steps)]
        return [
            sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps) for steps in each
        ]

    rows = []
    for who, goal in (("trl", work.goal), ("head", work.head_goal)):
        if who in sides:
            label, spread = (
                f"TRL{' (head)' * (who == 'head')}",
                [a / b for a, b in zip(rates("ours"), rates(who), strict=True)],
            )
            row = _row(
                f"{name}: tokens/s over {label}",
                statistics.median(rates("ours")) / statistics.median(rates(who)),
                goal,
                at_least=True,
            )
            rows.append(row | {"rounds": [float(f"{one:.3g}") for one in spread]})
            rows.append(
                _row(
                    f"{name}: peak memory over {label}",
                    memory["ours"] / memory[who],
                    work.memory_goal if who == "trl" else None,
                )
            )
    if work.training and work.device == "cpu":
        rows.append(
            _row(f"{name}: largest relative difference of a gradient from TRL's", _gradients(folder), 1e-5)
        )
    if work.training:
        rows.append(
            _row(
                f"{name}: share of the {'GPU' if work.device == 'cuda' else 'core'}'s matrix-product rate",
                statistics.median(step["share"] for step in found["ours"]),
                work.share_goal,
                at_least=True,
            )
        )
    return rows


def _gradients(folder: Path) -> float:
    from safetensors.torch import load_file

    ours, trl = load_file(folder / "ours.safetensors"), load_file(folder / "trl.safetensors")
    return max(((ours[key] - trl[key]).norm() / trl[key].norm()).item() for key in trl)


def padding(folder: Path) -> list[dict]:
    """The packed pass beside our own padded one, which is the model's unchanged attention: loss and every gradient of a batch."""
    name = "train-5M-8"
    work, found = WORKS[name], []
    new_model(work.model, folder)
    for attention in (None, "sdpa"):
        step, model = ours(work, folder)
        model.config._attn_implementation = attention or model.config._attn_implementation
        totals, _ = step(pairs_of(work.lengths, work.pairs, work.model["vocab_size"]))
        found.append([totals[0].float(), *(parameter.grad for parameter in model.parameters())])
    return [
        _row(
            "packed = padded: largest relative difference of loss and gradients",
            max(((a - b).norm() / b.norm()).item() for a, b in zip(*found, strict=True)),
            1e-5,
        )
    ]


def reading(rounds: int, folder: Path) -> list[dict]:
    """Pairs a second that the trainer's reader gives of shards as the engine writes them, their digests checked at the first; and what all that happens
    to the data (order, ranks, micro-batches, layout) takes of a training step."""
    import pyarrow as pa
    import torch

    from engine.stage import write_parquet
    from schemas.commit import sha256_file
    from schemas.forward.layout import pack
    from schemas.manifest import File, Marker
    from schemas.tables import table
    from trainer import data

    pa.set_cpu_count(1)
    torch.set_num_threads(1)
    pin(_CORES[0])
    work, markers, shards = WORKS["train-5M-8"], [], 4
    pairs = pairs_of(DIALOGUES, 10_000, 32000)
    columns = {
        name: [getattr(pair, name) for pair in pairs]
        for name in (
            "pair_id",
            "prompt_ids",
            "chosen_ids",
            "rejected_ids",
            "ref_chosen_token_logps",
            "ref_rejected_token_logps",
        )
    }
    rows = table("pairs", columns | {"split": ["train"] * len(pairs)})
    for shard in range(shards):
        path = folder / f"{shard:05}.pairs.parquet"
        write_parquet(rows, path)
        markers.append(
            Marker(shard, (File(path.name, "pairs", len(rows), sha256_file(path)),), {}, {"train": len(rows)})
        )
    opened, rates = data.Pairs(folder, {}, tuple(markers)), {"flat": [], "pairs": []}
    for _ in range(3 * rounds):
        for what, done in rates.items():
            begun = time.perf_counter()
            count = sum(
                len(read) if what == "flat" else sum(1 for _ in read)
                for read in (data.read_shard(opened, shard, "train") for shard in range(shards))
            )
            done.append(count / (time.perf_counter() - begun))
    begun = time.perf_counter()
    for _, batch in itertools.islice(
        data.global_batches(opened, work.pairs, seed=1), len(pairs) // work.pairs
    ):
        for part in data.micro_batches(data.deal(batch, 0, 1), 2048):
            pack([(pair.prompt_ids, (pair.chosen_ids, pair.rejected_ids)) for pair in part])
    handled = (time.perf_counter() - begun) / len(pairs)
    new_model(work.model, folder)
    step, _ = ours(work, folder)
    small = pairs_of(DIALOGUES, 4 * work.pairs, work.model["vocab_size"])
    step(small[: work.pairs])
    begun = time.perf_counter()
    step(small)
    trained = (time.perf_counter() - begun) / (4 * work.pairs)
    return [
        _row(
            "reading shards to flat arrays, thousand pairs/s",
            statistics.median(rates["flat"]) / 1000,
            300,
            at_least=True,
        ),
        _row("the same, and every pair's views made", statistics.median(rates["pairs"]) / 1000, None),
        _row("the data's whole way to the model over a training step, 5 M", handled / trained, 0.01),
    ]


def _row(work: str, ratio: float, goal: float | None, at_least: bool = False) -> dict:
    return {
        "work": work,
        "ratio": float(f"{ratio:.3g}"),
        "goal": goal,
        "ok": goal is None or (ratio >= goal if at_least else ratio <= goal),
    }


class _Raw:
    """From a raw file of ten thousand pairs to the first optimizer step, whole processes, log-probs kept from an earlier run on both sides.

    Ours is `engine precompute` and then `trainer run` to the end of one step, TRL's a script that loads the file, builds its trainer and takes one step
    (speed_trl.py; it proves that it computed no log-prob). `raw`: the file is read and tokenised anew; `again`: all that either side keeps is there."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.run, self.count = folder, folder / "run", count
        _write_raw(folder / "pairs.jsonl", count)
        new_model(
            {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "vocab_size": 636,
            },
            folder / "model",
        )
        self.recipe = folder / "recipe.toml"
        self.recipe.write_text(
            f'[model]\nname = "{folder / "model"}"\n[prompts]\nsource = ["{folder / "pairs.jsonl"}"]\nformat = "preference"\n[given]\n[logprobs]\n[pairs]\ntest_share = 0.0\n'
            "[train]\nbatch_size = 8\nmax_steps = 1\n"
        )

    def forget(self, what: str) -> None:
        """Removes what a side would find of an earlier run: its training, and for `raw` all but the log-probs."""
        for path in [
            *self.run.glob("train-*"),
            self.folder / "out",
            *([self.folder / "hf"] if what == "raw" else []),
        ]:
            shutil.rmtree(path, ignore_errors=True)
        if what == "raw":
            for stage in ("prompts", "given", "pairs"):
                for path in self.run.glob(f"{stage}-*"):
                    shutil.rmtree(path)

    def ours(self) -> None:
        _call("-m", "engine.cli", "precompute", self.recipe, "-o", self.run)
        _call("-m", "trainer.cli", "run", self.recipe, "-o", self.run)

    def trl(self, first: bool = False) -> None:
        _call(Path(__file__).with_name("speed_trl.py"), self.folder, *(["--first"] if first else []))

    def rows(self, rounds: int) -> list[dict]:
        self.ours()
        self.trl(first=True)
        kept = {path: path.stat().st_mtime_ns for path in self.run.glob("logprobs-*/*.parquet")}
        rows = []
        for what, goal in (("raw", 3.0), ("again", None)):
            times: dict[str, list[float]] = {"ours": [], "trl": []}
            for _ in range(rounds if what == "raw" else 1):
                self.forget(what)
                for who, done in times.items():
                    begun = time.perf_counter()
                    getattr(self, who)()
                    done.append(time.perf_counter() - begun)
            ratio = statistics.median(times["trl"]) / statistics.median(times["ours"])
            label = (
                "raw file to first step, log-probs cached" if what == "raw" else "the same with all cached"
            )
            rows.append(
                _row(f"{label}: sooner than TRL", ratio, goal, at_least=True)
                | {"seconds": {who: round(statistics.median(done), 1) for who, done in times.items()}}
            )
        assert {path: path.stat().st_mtime_ns for path in self.run.glob("logprobs-*/*.parquet")} == kept, (
            "log-probs were made anew"
        )
        return rows


def _write_raw(path: Path, count: int) -> None:
    """Dialogues of one to three questions in TRL's form, of the sandbox's words, which its tokenizer knows; in tokens about as long as hh-harmless."""
    import random

    from pipelines.sandbox import world

    words, draw = " ".join(row["prompt"] for row in world.prompts(1, 200)).split(), random.Random(0)

    def text(size: int) -> str:
        return " ".join(draw.choices(words, k=max(1, round(size / 1.2))))

    with open(path, "w") as file:
        for pair in pairs_of(DIALOGUES, count, 10):
            turns = draw.choice([1, 3, 5])
            prompt = [
                {"role": ("user", "assistant")[turn % 2], "content": text(len(pair.prompt_ids) / turns)}
                for turn in range(turns)
            ]
            chosen, rejected = (
                [{"role": "assistant", "content": text(len(ids)) + end}]
                for ids, end in ((pair.chosen_ids, "."), (pair.rejected_ids, "!"))
            )
            file.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")


def importing(rounds: int, folder: Path) -> list[dict]:
    """Import and tokenise: our stages up to token ids, and TRL's loading and tokenising of the same file, in processes that have imported everything."""
    raw = _Raw(folder, 3_000)
    ours, trl = (
        json.loads(
            _call(Path(__file__).with_name("speed_trl.py"), folder, "--tokenise", who, rounds).splitlines()[
                -1
            ]
        )
        for who in ("ours", "trl")
    )
    rate = raw.count / statistics.median(ours)
    return [
        _row("import and tokenise: rows/s over TRL", statistics.median(trl) / statistics.median(ours), None)
        | {"thousand_rows_per_second": round(rate / 1000, 1)}
    ]


def _call(*words: object) -> str:
    env = os.environ | _QUIET | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        ["taskset", "-c", str(_CORES[0]), sys.executable, *map(str, words)],
        env=env,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if said.returncode:
        sys.exit(f"{' '.join(map(str, words))} failed:\n{said.stdout[-1000:]}\n{said.stderr[-3000:]}")
    return said.stdout


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument(
        "--gpu", action="store_true", help=f"{', '.join(GPU_WORKS)}, in place of the CPU's works"
    )
    words.add_argument("--only", default="", help="some works, by name, with commas between them")
    words.add_argument("--json", action="store_true", help="an object a row")
    args = words.parse_args()
    works = {
        name: lambda folder, name=name: compare(name, (WORKS | GPU_WORKS)[name], args.rounds, folder)
        for name in (GPU_WORKS if args.gpu else WORKS)
    }
    if not args.gpu:
        works |= {
            "first-step": lambda folder: _Raw(folder, 10_000).rows(args.rounds),
            "import": lambda folder: importing(args.rounds, folder),
            "reading": lambda folder: reading(args.rounds, folder),
            "packed-padded": padding,
        }
    wanted = [name for name in args.only.split(",") if name] or list(works)
    if unknown := set(wanted) - set(works):
        sys.exit(f"--only {', '.join(unknown)}: expected some of {', '.join(works)}")
    if set(wanted) - {"reading", "packed-padded"} and not importlib.util.find_spec("trl"):
        sys.exit("TRL is not here: pip install -e '.[test]'")
    for name in wanted:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            for row in works[name](Path(folder)):
                if args.json:
                    print(json.dumps(row), flush=True)
                else:
                    goal = (
                        ""
                        if row["goal"] is None
                        else f"goal {row['goal']:g} {'met' if row['ok'] else 'MISSED'}"
                    )
                    print(f"{row['work']:<76} {row['ratio']:>9g}  {goal}", flush=True)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
