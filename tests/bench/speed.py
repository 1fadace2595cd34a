"""Ours beside TRL 1.16's DPOTrainer, as ratios: training and the log-prob pass in real tokens a second and in memory, and reading shards.

    python tests/bench/speed.py [--rounds 3] [--only train-60M,…] [--json]

Same random Llama, same pairs of random token ids in the same order, same optimizer, one core; lengths are those of hh-harmless (quantiles below), or short
prompts with long responses. Reference log-probs are cached on both sides and gradient checkpointing is off. Each side of each round is a process of
its own, the two in turn; a ratio is of the rounds' medians. Padding is not counted as tokens. `head` rows set TRL's CPU head to score response
positions only, as its GPU path does: the fair stand-in for a GPU. Memory is the peak above what the process held with its imports and model.
`ceiling` is our training step's arithmetic over the core's own rate for matrix products of the model's shapes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
# Lengths in tokens of hh-harmless at these quantiles: prompt, chosen, rejected.
QUANTILES = [0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1]
DIALOGUES = ([4, 9, 12, 23, 79, 151, 255, 318, 798], [2, 6, 9, 15, 28, 56, 92, 123, 266], [2, 6, 9, 18, 37, 69, 116, 154, 603])
LONG_RESPONSES = ([8, 10, 12, 16, 20, 26, 32, 36, 48], *[[40, 90, 110, 160, 220, 300, 380, 430, 600]] * 2)
BIG = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 32000}
SMALL = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 16000}
# Name: model, lengths, pairs a step (of a batch, for the log-prob pass), timed steps, dtype, goals against TRL as it is and with its head set.
WORKS = {
    "train-60M": (BIG, DIALOGUES, 4, 2, "float32", 5.0, 2.4),
    "train-5M-8": (SMALL, DIALOGUES, 8, 3, "float32", 8.0, 4.0),
    "train-5M-16": (SMALL, DIALOGUES, 16, 2, "float32", 10.0, 5.5),
    "train-60M-long-responses": (BIG, LONG_RESPONSES, 4, 1, "float32", 2.5, 1.5),
    "logprobs-float32": (BIG, DIALOGUES, 8, 2, "float32", 6.0, None),
    "logprobs-bfloat16": (BIG, DIALOGUES, 8, 2, "bfloat16", 7.0, None),
}
# Freed memory is kept on both sides: else TRL's large tensors are faulted in anew at each step, and a third of its time is the system's.
_KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "67108864"}
MEMORY_GOAL = 0.4  # of train-60M


def pairs_of(lengths: tuple, count: int, vocabulary: int) -> list:
    """Pairs of random ids; log-probs of a made-up reference."""
    import numpy as np

    from trainer.data import Pair

    draw, found = np.random.default_rng(5), []
    for number in range(count):
        # The three lengths go together in part: a random place, moved a little for each.
        place = np.clip(draw.random() + draw.normal(0, 0.25, 3), 0, 0.995)
        prompt, chosen, rejected = (draw.integers(0, vocabulary, max(1, round(np.interp(p, QUANTILES, q))), dtype=np.int32) for p, q in zip(place, lengths, strict=True))
        found.append(Pair(str(number), prompt, chosen, rejected, *(draw.normal(-9, 1, len(ids)).astype(np.float32) for ids in (chosen, rejected))))
    return found


def new_model(shape: dict, folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=4096, tie_word_embeddings=False)).save_pretrained(folder)


def trl_trainer(folder: Path, size: int, dtype: str):
    """TRL's trainer on the model, with its collator; what it is given to read is of no account."""
    import torch
    import trl
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a")), eos_token="</s>", pad_token="</s>")
    config = trl.DPOConfig(output_dir=str(folder / "out"), beta=0.1, loss_type=["sigmoid"], per_device_train_batch_size=size, report_to=[], gradient_checkpointing=False,
                           bf16=False, use_cpu=True, max_length=None, precompute_ref_log_probs=True, disable_tqdm=True)  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return trl.DPOTrainer(model, args=config, train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "a", "rejected": "a"}] * size), processing_class=tokenizer)


def rows_of(pairs: list) -> list[dict]:
    return [
        {name: getattr(pair, name).tolist() for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
        | {f"ref_{side}_logps": float(getattr(pair, f"ref_{side}_token_logps").sum()) for side in ("chosen", "rejected")}
        for pair in pairs
    ]


def side(name: str, who: str, folder: Path) -> dict:
    """One side of one round, in this process: seconds, tokens, peak memory, and the first step's gradients, saved."""
    import torch
    from safetensors.torch import save_file

    shape, lengths, size, steps, dtype, *_ = WORKS[name]
    training = name.startswith("train")
    pairs = pairs_of(lengths, size * (steps + 1), shape["vocab_size"])
    batches = [pairs[at : at + size] for at in range(0, len(pairs), size)]
    step, model = (_ours if who == "ours" else _theirs)(folder, size, dtype, training, who == "head")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    held = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    for number, batch in enumerate(batches):
        if number == 1:  # the first one warms up
            begun = time.perf_counter()
        step(batch)
        if number == 0 and training:
            save_file({key: parameter.grad.clone() for key, parameter in model.named_parameters()}, folder / f"{who}.safetensors")
        if training:
            optimizer.step()
            optimizer.zero_grad()
    seconds = time.perf_counter() - begun
    peak = _memory("VmHWM") - held
    tokens = sum(pair.tokens + len(pair.prompt_ids) for batch in batches[1:] for pair in batch)  # both rows of a pair, without padding
    fed = sum(pair.tokens - 2 for batch in batches[1:] for pair in batch)
    scored = sum(len(pair.chosen_ids) + len(pair.rejected_ids) for batch in batches[1:] for pair in batch)
    found = {"seconds": seconds, "tokens": tokens, "memory": peak}
    if who == "ours" and training and dtype == "float32":
        head = model.get_output_embeddings().weight.numel()
        body = sum(p.numel() for p in model.parameters() if p.dim() > 1) - 2 * head
        found["ceiling"] = (6 * (body * fed + head * scored) / seconds) / _rate(shape)
    return found


def _ours(folder: Path, size: int, dtype: str, training: bool, _: bool):
    import torch

    from schemas import packed
    from schemas.sections import Train
    from trainer import data, losses
    from trainer.dist import Ranks
    from trainer.train import Stepping

    cpu = torch.device("cpu")
    model = packed.load(folder, getattr(torch, dtype), cpu)
    if training:
        stepping = Stepping(model, losses.choose(Train(options={"dpo": {"beta": 0.1}})), Train(batch_size=size), Ranks(0, 1, cpu))
        return stepping.backward, model

    @torch.no_grad()
    def score(batch):
        for part in data.micro_batches(batch, 2048):
            packed.token_logps(model, packed.lay([(pair.prompt_ids, (pair.chosen_ids, pair.rejected_ids)) for pair in part]))

    return score, model


def _theirs(folder: Path, size: int, dtype: str, training: bool, head: bool):
    trainer = trl_trainer(folder, size, dtype)
    if head:
        import trl.trainer.utils

        trl.trainer.utils._use_triton = lambda device: True
    model = trainer.model
    model.train(training)

    def run(batch):
        inputs = trainer.data_collator(rows_of(batch))
        if training:
            trainer.compute_loss(model, inputs).backward()
        else:
            trainer.compute_ref_log_probs(model, inputs)

    return run, model


def _memory(key: str) -> int:
    return next(int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))


def _rate(shape: dict) -> float:
    """Operations a second of this core in matrix products of the model's shapes, the best of some."""
    import torch

    best = 0.0
    for inner, outer in ((shape["hidden_size"], shape["intermediate_size"]), (shape["hidden_size"], shape["vocab_size"])):
        a, b = torch.randn(512, inner), torch.randn(inner, outer)
        for _ in range(12):
            begun = time.perf_counter()
            a @ b
            best = max(best, 2 * 512 * inner * outer / (time.perf_counter() - begun))
    return best


def compare(name: str, rounds: int, folder: Path) -> list[dict]:
    from safetensors.torch import load_file

    shape, *_, goal, head_goal = WORKS[name]
    training = name.startswith("train")
    new_model(shape, folder)
    found: dict[str, list[dict]] = {who: [] for who in ("ours", "trl", "head")}
    for _ in range(rounds):
        for who, done in found.items():
            env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"} | _KEEP_MEMORY
            said = subprocess.run([sys.executable, __file__, "--side", name, who, str(folder)], env=env, capture_output=True, text=True, cwd=ROOT)
            if said.returncode:
                sys.exit(said.stderr)
            done.append(json.loads(said.stdout.splitlines()[-1]))

    def median(who: str, key: str) -> float:
        return statistics.median(one[key] for one in found[who])

    rows = []
    for who, wanted in (("trl", goal), ("head", head_goal)):
        ratio = median(who, "seconds") / median("ours", "seconds")
        spread = [a["seconds"] / b["seconds"] for a, b in zip(found[who], found["ours"], strict=True)]
        rows.append(_row(f"{name}: tokens/s over TRL{' (head)' * (who == 'head')}", ratio, wanted, at_least=True) | {"least": round(min(spread), 2), "most": round(max(spread), 2)})
        rows.append(_row(f"{name}: peak memory over TRL's{' (head)' * (who == 'head')}", median("ours", "memory") / max(1, median(who, "memory")), MEMORY_GOAL if (name, who) == ("train-60M", "trl") else None))
    if training:
        ours, trl = load_file(folder / "ours.safetensors"), load_file(folder / "trl.safetensors")
        gap = max(((ours[key] - trl[key]).norm() / trl[key].norm()).item() for key in trl)
        rows.append(_row(f"{name}: largest relative difference of a gradient", gap, 1e-5))
        rows.append(_row(f"{name}: share of the core's matrix-product rate", median("ours", "ceiling"), 0.75 if name == "train-60M" else None, at_least=True))
    return rows


def reading(rounds: int, folder: Path) -> list[dict]:
    """Pairs a second that the trainer's reader gives of shards as the engine writes them, digests checked."""
    import pyarrow as pa

    from engine.stage import write_parquet
    from schemas.commit import sha256_file
    from schemas.manifest import File, Marker
    from schemas.tables import table
    from trainer import data

    pa.set_cpu_count(1)
    pairs, markers = pairs_of(DIALOGUES, 10_000, 32000), []
    columns = {name: [getattr(pair, name) for pair in pairs] for name in ("pair_id", "prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_token_logps", "ref_rejected_token_logps")}
    rows = table("pairs", columns | {"split": ["train"] * len(pairs)})
    for shard in range(4):
        path = folder / f"{shard:05}.pairs.parquet"
        write_parquet(rows, path)
        markers.append(Marker(shard, (File(path.name, "pairs", len(rows), sha256_file(path)),), {}, {"train": len(rows)}))
    opened, rates = data.Pairs(folder, {}, tuple(markers)), []
    for _ in range(rounds):
        begun = time.perf_counter()
        count = sum(len(data.read_shard(opened, shard, "train")) for shard in range(4))
        rates.append(count / (time.perf_counter() - begun))
    return [_row("reading shards, thousand pairs/s", statistics.median(rates) / 1000, 300, at_least=True)]


def _row(work: str, ratio: float, goal: float | None, at_least: bool = False) -> dict:
    return {"work": work, "ratio": float(f"{ratio:.3g}"), "goal": goal, "ok": goal is None or (ratio >= goal if at_least else ratio <= goal)}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--only", default="", help=f"some of {', '.join([*WORKS, 'reading'])}")
    words.add_argument("--json", action="store_true")
    words.add_argument("--side", nargs=3, help=argparse.SUPPRESS)
    args = words.parse_args()
    if args.side:
        print(json.dumps(side(args.side[0], args.side[1], Path(args.side[2]))))
        return
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    known = [*WORKS, "reading"]
    wanted = [name for name in args.only.split(",") if name] or known
    if unknown := set(wanted) - {*known}:
        sys.exit(f"--only {', '.join(unknown)}: expected some of {', '.join(known)}")
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            for row in reading(args.rounds, Path(folder)) if name == "reading" else compare(name, args.rounds, Path(folder)):
                if args.json:
                    print(json.dumps(row), flush=True)
                else:
                    goal = "" if row["goal"] is None else f"goal {row['goal']:g} {'met' if row['ok'] else 'MISSED'}"
                    print(f"{row['work']:<66} {row['ratio']:>9g}  {goal}", flush=True)


if __name__ == "__main__":
    main()
