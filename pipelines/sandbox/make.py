"""Make a sandbox model: a Llama that answers, rates, rewrites and reacts to the quality prompt.

    python -m pipelines.sandbox.make FOLDER [world|market]

- Writes a model folder in Hugging Face form. The world's takes an hour on two cores, the market's half of it.
- The model learns from the world's problems, through the very prompts that real models are asked with
  (`jobs.py`), in three parts (`schedule.py`, `training.py`).
- Its plain answers are as careless as the texts it learnt from: about two of five have a slip. Under the
  quality prompt all are right. So there is something to learn, and something that the quality prompt brings
  out.
- The results are committed as `model/` and `market_model/`, in float16. This script makes them again from
  nothing.
- The market's model (0.9 million parameters) is smaller than the world's, and its problems are harder: it is
  trained hundreds of times by pipelines/evidence, and must leave something to be learnt.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from pipelines.sandbox.schedule import PARTS
from pipelines.sandbox.training import train

TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message.role }}|>{{ message.content }}"
    "{% if message.role == 'assistant' %}<|end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_END_TOKEN = "<|end|>"
_ROLE_TOKENS = ["<|user|>", "<|assistant|>", "<|system|>"]
_VOCABULARY_SIZE = 1024  # the end token and the role tokens included
# A word, a digit or a sign, each with the space before it. Nothing merges across them, so digits stay single.
_PIECES = r" ?[A-Za-z]+| ?[0-9]| ?[^A-Za-z0-9\s]|\s+"
_EXAMPLES_PER_JOB = 400  # that the tokenizer learns from
_SHAPES = {
    "world": {
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "max_position_embeddings": 512,
    },
    "market": {
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 640,
    },
}


def new_model(
    seed: int, world: str = "world", **shape: int
) -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM]:
    """A tokenizer for a world and a Llama with random weights, a function of `seed`.

    `shape` overrides fields of the model's config, such as hidden_size. All seeds have the same tokenizer.
    """
    tokenizer = _new_tokenizer(world)
    torch.manual_seed(seed)
    fields: dict[str, Any] = _SHAPES[world] | shape
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        tie_word_embeddings=True,
        **fields,
    )
    return tokenizer, LlamaForCausalLM(config)


def _new_tokenizer(world: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that knows a world's words and single digits."""
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_SIZE - len([_END_TOKEN, *_ROLE_TOKENS]),
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_example_texts(world), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=_END_TOKEN,
        additional_special_tokens=_ROLE_TOKENS,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _example_texts(world: str) -> Iterator[str]:
    """Prompts and responses of every job, for the tokenizer to learn from."""
    draw = random.Random(0)
    for share in PARTS[world][0].jobs:
        for _ in range(_EXAMPLES_PER_JOB):
            example = share.job(draw)
            yield example.prompt
            yield example.response


def save(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, path: Path) -> None:
    """Write a model folder in Hugging Face form; the weights come last, so a folder with weights is whole."""
    logging.disable_progress_bar()
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(path)
    model.save_pretrained(path)


def make(path: Path, world: str = "world", seed: int = 0) -> None:
    """Train a new model through all parts and write it to `path` in float16."""
    tokenizer, model = new_model(seed, world)
    for number, part in enumerate(PARTS[world]):
        torch.manual_seed(seed + number + 1)
        train(
            tokenizer,
            model,
            part,
            seed + 1 + 100 * number,
        )
    save(tokenizer, model.half(), path)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], *([name] for name in PARTS)):
        sys.exit(f"usage: python -m pipelines.sandbox.make FOLDER [{'|'.join(PARTS)}]")
    make(Path(sys.argv[1]), sys.argv[2] if sys.argv[2:] else "world")
