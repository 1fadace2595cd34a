"""The works that `speed.py` times: model shapes, lengths, goals; the random pairs and model of a work."""

import math
import shutil
import sys
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


@dataclass(frozen=True)
class Work:
    """`pairs` are of one step over all ranks.

    `goal` and `head_goal` are for tokens a second over TRL's, as it is and with its head set."""

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
    shares_gpu: bool = False  # whoever waits leaves the device to the other (speed_turns.py)
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
# At these lengths TRL's peak is reckoned at some 60 and 70 GiB: each side alone fits a GPU of 80 GB.
_GPU = {"dtype": "bfloat16", "device": "cuda", "shares_gpu": True}
_GPU_GOALS = {"goal": 1.8, "memory_goal": 0.5, "share_goal": 0.45}
GPU_WORKS = {
    "train-0.5B": Work(_500M, LONG_DIALOGUES, 5, **_GPU, **_GPU_GOALS),
    "train-1.5B": Work(_1500M, LONG_DIALOGUES, 2, **_GPU, **_GPU_GOALS),
    "logprobs-1.5B": Work(_1500M, LONG_DIALOGUES, 32, **_GPU, training=False),
}
# The GPU's way on a CPU: whether it works can be tried anywhere. Their numbers mean nothing.
TRIAL_WORKS = {
    "try-train": Work(_5M, DIALOGUES, 2, "bfloat16", shares_gpu=True),
    "try-logprobs": Work(_5M, DIALOGUES, 2, "bfloat16", shares_gpu=True, training=False),
}
ALL_WORKS = WORKS | GPU_WORKS | TRIAL_WORKS


def pairs_of(lengths: tuple, count: int, vocabulary: int) -> list:
    """Pairs of random ids with these lengths, and log-probs of a made-up reference."""
    import numpy as np

    from trainer.pairs import Pair

    draw = np.random.default_rng(5)
    pairs = []
    for number in range(count):
        # Normal numbers that share a part, to their quantiles: each length is distributed as it should be,
        # and the three go together as in the data.
        normal = math.sqrt(_TOGETHER) * draw.normal() + math.sqrt(1 - _TOGETHER) * draw.normal(size=3)
        places = [0.5 * (1 + math.erf(one / math.sqrt(2))) for one in normal]
        sizes = [
            max(1, round(np.interp(place, QUANTILES, quantiles)))
            for place, quantiles in zip(places, lengths, strict=True)
        ]
        # Zipf's law, as in text: most tokens are among the few frequent ones.
        prompt, chosen, rejected = ((vocabulary ** draw.random(size)).astype(np.int32) - 1 for size in sizes)
        pairs.append(
            Pair(
                f"{number:032x}",
                prompt,
                chosen,
                rejected,
                *(draw.normal(-3, 1, len(ids)).astype(np.float32) for ids in (chosen, rejected)),
            )
        )
    return pairs


def new_model(shape: dict, folder: Path) -> None:
    """A random Llama of the shape, with some tokenizer and some rows.

    TRL asks for the tokenizer and the rows; nothing depends on what they are."""
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
