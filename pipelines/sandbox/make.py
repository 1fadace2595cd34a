"""Makes the sandbox: word problems, each with a solution that shows its work and one that does not, and a small model trained on both alike.

    python -m pipelines.sandbox.make FOLDER        writes FOLDER/pairs.jsonl and FOLDER/model/

Both solutions are right; the one that shows its work is preferred, and the model is as likely to give either: what separates them can be
learnt from the pairs. Everything is a function of the seed.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from schemas.commit import commit_bytes

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% if message.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ["<|user|>", "<|assistant|>", "<|system|>"]
_NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hugo", "Ines", "Jon", "Kim", "Leo", "Mia", "Noah", "Olga", "Pia"]
_THINGS = ["apples", "books", "coins", "marbles", "pencils", "shells", "stamps", "stones"]
_MORE = ["buys", "finds", "gets", "wins"]
_LESS = ["eats", "gives-away", "loses", "sells"]


def problems(seed: int, count: int) -> Iterator[dict[str, str]]:
    """`count` problems as prompt, chosen (shows its work) and rejected (does not)."""
    draw = random.Random(seed)
    for _ in range(count):
        name, thing, more = draw.choice(_NAMES), draw.choice(_THINGS), draw.random() < 0.5
        verb, b = draw.choice(_MORE if more else _LESS), draw.randint(1, 40)
        a = draw.randint(b + 1, 90)
        result = a + b if more else a - b
        prompt = f"{name} has {a} {thing} . Then {name} {verb} {b} {thing} . How many {thing} does {name} have now ?"
        work = f"{a} {'+' if more else '-'} {b} = {result} ."
        yield {"prompt": prompt, "chosen": f"{work} The answer is {result} .", "rejected": f"The answer is {result} ."}


def make(folder: Path, seed: int = 0, pairs: int = 1500, steps: int = 300) -> None:
    """Writes the pairs and the model; a folder that has both is left as it is."""
    if not (folder / "pairs.jsonl").exists():
        rows = (json.dumps(problem) + "\n" for problem in problems(seed, pairs))
        commit_bytes(folder / "pairs.jsonl", "".join(rows).encode())
    if not (folder / "model" / "model.safetensors").exists():
        tokenizer, model = new_model(seed)
        train(tokenizer, model, seed + 1, steps)
        save(tokenizer, model, folder / "model")


def new_model(seed: int, **shape: int):
    """A tokenizer of whole words and single digits, and a Llama with random weights; `shape` overrides its config."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = sorted({word for problem in problems(0, 2000) for text in problem.values() for word in text.split() if not word.isdigit()})
    vocabulary = {token: number for number, token in enumerate(["<|unknown|>", *"0123456789", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)])
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", unk_token="<|unknown|>", additional_special_tokens=_SPECIAL)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    sizes = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=None, tie_word_embeddings=True, **(sizes | shape))
    return tokenizer, LlamaForCausalLM(config)


def train(tokenizer, model, seed: int, steps: int, batch: int = 48) -> None:
    """Plain next-token training in the chat template, prompts included, on both kinds of solution alike."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    draw = random.Random(seed)
    for step in range(steps):
        texts = []
        for problem in problems(draw.randrange(2**32), batch):
            turns = [{"role": "user", "content": problem["prompt"]}, {"role": "assistant", "content": problem[draw.choice(("chosen", "rejected"))]}]
            texts.append(tokenizer.apply_chat_template(turns, tokenize=False))
        ids = tokenizer(texts, add_special_tokens=False).input_ids
        rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True, padding_value=-100)
        loss = model(rows.clamp_min(0), labels=rows).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            print(f"sandbox model: step {step + 1}/{steps}, loss {loss.item():.3f}", flush=True)


def save(tokenizer, model, path: Path) -> None:
    """A model folder in Hugging Face form; the weights are written last, so that a folder with weights is whole."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(path)
    model.save_pretrained(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pipelines.sandbox.make FOLDER")
    make(Path(sys.argv[1]))
