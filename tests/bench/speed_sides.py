"""One side of a work of `speed.py`, in a process of its own that takes a step whenever it is told to: the step, its time and the memory held.

    python tests/bench/speed_sides.py WORK ours|trl|head FOLDER STEPS CORE        then -1 to warm up and a step's number, a line each, on its input

`head` is TRL with its CPU head set to score response positions only, as its GPU path does. A first step warms up and is not timed; of a training
its gradients are saved. Each answer is a line of JSON: peak memory, then seconds, real tokens (both rows of a pair, no padding) and of
our own training the share of the processor's rate for matrix products.
"""

import json
import math
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
# Lengths in tokens at these quantiles: prompt, chosen, rejected.
QUANTILES = [0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1]
DIALOGUES = (
    [4, 9, 12, 23, 79, 151, 255, 318, 512, 798],
    [2, 6, 9, 15, 28, 56, 92, 123, 190, 266],
    [2, 6, 9, 18, 37, 69, 116, 154, 258, 603],
)  # hh-harmless
LONG_RESPONSES = (
    [8, 10, 12, 16, 20, 26, 32, 36, 42, 48],
    [1, 8, 22, 100, 300, 540, 656, 710, 918, 1150],
    [5, 35, 51, 148, 339, 518, 649, 709, 1002, 1070],
)  # short questions, answers as in a ShareGPT preference set
LONG_DIALOGUES = (
    [200, 300, 400, 600, 1000, 1500, 2000, 2200, 2400, 2500],
    *[[100, 150, 200, 300, 500, 700, 900, 1100, 1300, 1500]] * 2,
)  # 1 to 4 thousand in all
_TOGETHER = 0.28  # rank correlation of the three lengths in hh-harmless

_60M = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}
_5M = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 16000,
}
# The shapes of Qwen2 at 0.5 and 1.5 billion.
_500M = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
}
_1500M = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
}
H200_BFLOAT16 = 989e12  # operations a second, dense, from the maker's data sheet


@dataclass(frozen=True)
class Work:
    """Pairs are of one step over all ranks; `goal` and `head_goal` are for tokens a second over TRL's, as it is and with its head set."""

    model: dict
    lengths: tuple
    pairs: int
    dtype: str = "float32"
    goal: float | None = None
    head_goal: float | None = None
    memory_goal: float | None = None
    share_goal: float | None = None
    training: bool = True
    ranks: int = 1
    device: str = "cpu"
    steps: int = 1  # of each side in a round, in turn


WORKS = {
    "train-60M": Work(_60M, DIALOGUES, 4, goal=5.0, head_goal=2.4, memory_goal=0.4, share_goal=0.75),
    "train-5M-8": Work(_5M, DIALOGUES, 8, goal=8.0, head_goal=4.0, steps=2),
    "train-5M-16": Work(_5M, DIALOGUES, 16, goal=10.0, head_goal=5.5),
    "train-60M-long-responses": Work(_60M, LONG_RESPONSES, 3, goal=2.5, head_goal=1.5),
    "train-5M-2-ranks": Work(_5M, DIALOGUES, 8, ranks=2, steps=2),
    "logprobs-float32": Work(_60M, DIALOGUES, 8, goal=6.0, training=False),
    "logprobs-bfloat16": Work(_60M, DIALOGUES, 8, "bfloat16", goal=7.0, training=False),
}
GPU_WORKS = {
    "train-0.5B": Work(
        _500M, LONG_DIALOGUES, 6, "bfloat16", goal=1.8, memory_goal=0.5, share_goal=0.45, device="cuda"
    ),
    "train-1.5B": Work(
        _1500M, LONG_DIALOGUES, 3, "bfloat16", goal=1.8, memory_goal=0.5, share_goal=0.45, device="cuda"
    ),
    "logprobs-1.5B": Work(_1500M, LONG_DIALOGUES, 32, "bfloat16", training=False, device="cuda"),
}


def pairs_of(lengths: tuple, count: int, vocabulary: int) -> list:
    """Pairs of random ids with these lengths, and log-probs of a made-up reference."""
    import numpy as np

    from trainer.data import Pair

    draw, found = np.random.default_rng(5), []
    for number in range(count):
        # Normal numbers that share a part, to their quantiles: each length is distributed as it should be, and the three go together as in the data.
        normal = math.sqrt(_TOGETHER) * draw.normal() + math.sqrt(1 - _TOGETHER) * draw.normal(size=3)
        places = [0.5 * (1 + math.erf(one / math.sqrt(2))) for one in normal]
        sizes = [
            max(1, round(np.interp(place, QUANTILES, quantiles)))
            for place, quantiles in zip(places, lengths, strict=True)
        ]
        # Zipf's law, as in text: most tokens are among the few frequent ones.
        prompt, chosen, rejected = ((vocabulary ** draw.random(size)).astype(np.int32) - 1 for size in sizes)
        found.append(
            Pair(
                f"{number:032x}",
                prompt,
                chosen,
                rejected,
                *(draw.normal(-3, 1, len(ids)).astype(np.float32) for ids in (chosen, rejected)),
            )
        )
    return found


def new_model(shape: dict, folder: Path) -> None:
    """A random Llama of the shape, with some tokenizer and some rows, on which nothing depends but that TRL asks for them."""
    import shutil

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(3)
    LlamaForCausalLM(
        LlamaConfig(**shape, max_position_embeddings=4096, tie_word_embeddings=False)
    ).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(ROOT / "pipelines" / "sandbox" / "model" / file, folder)
    (folder / "rows.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 4)


def ours(work: Work, folder: Path):
    """(step over a list of pairs, model)."""
    from trainer import dist

    ranks = dist.start(work.device)
    if work.training:
        from schemas.sections import Train
        from trainer import losses
        from trainer.model import load
        from trainer.train import Stepping

        model = load(folder, ranks.device, gradient_checkpointing=False)
        config = Train(batch_size=work.pairs, dtype=work.dtype, options={"dpo": {"beta": 0.1}})
        return Stepping(model, losses.choose(config), config, ranks).backward, model
    from engine.models import Uses
    from engine.models.hf import HF
    from schemas.sections import Model

    backend = HF(Uses(Model(name=str(folder), dtype=work.dtype), "hf"), work.device)
    return lambda pairs: backend.logprobs(
        [pair.prompt_ids for pair in pairs], [(pair.chosen_ids, pair.rejected_ids) for pair in pairs]
    ), backend._model


def theirs(work: Work, folder: Path, head: bool):
    """The same of TRL: its trainer's own collator, forward and loss."""
    import torch
    import trl
    import trl.trainer.utils
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if head:
        trl.trainer.utils._use_triton = lambda device: True
    lower = work.dtype == "bfloat16" and work.training
    config = trl.DPOConfig(
        output_dir=str(folder / "out"),
        beta=0.1,
        loss_type=["sigmoid"],
        per_device_train_batch_size=work.pairs // work.ranks,
        report_to=[],
        bf16=lower,
        gradient_checkpointing=False,
        use_cpu=work.device == "cpu",
        max_length=None,
        precompute_ref_log_probs=True,
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32 if work.training else getattr(torch, work.dtype)
    )
    rows = load_dataset(
        "json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=str(folder / "hf")
    )
    trainer = trl.DPOTrainer(
        model, args=config, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(folder)
    )
    bare = trainer.model
    bare.train(work.training)
    # What Trainer.train does: mixed precision, and DistributedDataParallel where there are ranks.
    model = trainer.accelerator.prepare_model(bare) if work.training else bare
    rank = int(os.environ.get("RANK", 0))

    def step(pairs: list) -> None:
        inputs = trainer.data_collator(
            [
                {name: getattr(pair, name).tolist() for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
                | {
                    f"ref_{side}_logps": float(getattr(pair, f"ref_{side}_token_logps").sum())
                    for side in ("chosen", "rejected")
                }
                for pair in pairs[rank :: work.ranks]
            ]
        )
        inputs = {key: value.to(work.device) for key, value in inputs.items()}
        if work.training:
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, inputs)
            loss.backward()
        else:
            trainer.compute_ref_log_probs(model, inputs)

    return step, bare


def operations(model, pairs: list) -> float:
    """Operations of the matrix products that a training step needs (forward once, backward twice), attention's included, each causal half once."""
    config = model.config
    head = model.get_output_embeddings().weight.numel()
    body = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1) - 2 * head
    total, per_key = (
        0.0,
        2
        * config.num_hidden_layers
        * config.num_attention_heads
        * (config.hidden_size // config.num_attention_heads),
    )
    for pair in pairs:
        fed, seen, length = len(pair.prompt_ids), len(pair.prompt_ids) ** 2 / 2, len(pair.prompt_ids)
        for response in (len(pair.chosen_ids) - 1, len(pair.rejected_ids) - 1):
            fed, seen = fed + response, seen + response * length + response**2 / 2
        total += body * fed + head * (len(pair.chosen_ids) + len(pair.rejected_ids)) + per_key * seen
    return 6 * total


def rate(shape: dict, seconds: float = 0.4) -> float:
    """Operations a second of this core in matrix products of the model's shapes, one after the other for a while."""
    import torch

    sides = [
        (shape["hidden_size"], shape["hidden_size"]),
        (shape["hidden_size"], shape["intermediate_size"]),
        (shape["intermediate_size"], shape["hidden_size"]),
    ]
    factors = [(torch.randn(512, a), torch.randn(a, b)) for a, b in sides]
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for a, b in factors:
            a @ b
            done += 2 * a.shape[0] * a.shape[1] * b.shape[1]
    return done / (time.perf_counter() - begun)


def peak_memory(device: str) -> int:
    """Bytes: of this process, or of the GPU's memory."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    return next(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )


def pin(core: int) -> None:
    """All threads of this process on one core."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {core})


def main() -> None:
    name, who, folder, count, core = (
        sys.argv[1],
        sys.argv[2],
        Path(sys.argv[3]),
        int(sys.argv[4]),
        int(sys.argv[5]),
    )
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    import torch
    from safetensors.torch import save_file

    work = (WORKS | GPU_WORKS)[name]
    torch.set_num_threads(1)
    pairs = pairs_of(work.lengths, work.pairs * count, work.model["vocab_size"])
    batches = [pairs[at : at + work.pairs] for at in range(0, len(pairs), work.pairs)]
    step, model = ours(work, folder) if who == "ours" else theirs(work, folder, who == "head")
    optimizer = (
        torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
        if work.training
        else None
    )
    cuda, known = work.device != "cpu", who == "ours" and work.training

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize()

    def learn() -> None:
        if optimizer:
            optimizer.step()
            optimizer.zero_grad()

    def warm_up() -> int:
        """The largest batch, which makes the peak; its bytes. A gigabyte is laid by after it: no timed step waits for the system to hand out pages."""
        if optimizer:  # its states first, as in every later step: gradients of zero change no weight
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            learn()
        step(max(batches, key=lambda batch: max(pair.tokens for pair in batch)))
        if work.training and not cuda and os.environ.get("RANK", "0") == "0":
            save_file(
                {key: parameter.grad.clone() for key, parameter in model.named_parameters()},
                folder / f"{who}.safetensors",
            )
        learn()
        memory = peak_memory(work.device)
        torch.ones(0 if cuda else 1 << 28)
        return memory

    def timed(batch: list) -> dict:
        before = rate(work.model) if known and not cuda else 0
        wait()
        begun = time.perf_counter()
        step(batch)
        learn()
        wait()
        seconds = time.perf_counter() - begun
        found = {"seconds": seconds, "tokens": sum(pair.tokens + len(pair.prompt_ids) for pair in batch)}
        if known:
            best = H200_BFLOAT16 if cuda else (before + rate(work.model)) / 2
            found["share"] = operations(model, batch) / work.ranks / seconds / best
        return found

    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        number = int(line)
        if number < 0:
            if not cuda:
                pin(core)
            found = {"memory": warm_up()}
        else:
            found = timed(batches[number])
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
