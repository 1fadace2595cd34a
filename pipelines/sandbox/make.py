"""Makes the sandbox's tiny model: one small Llama that answers, rates, rewrites and reacts to the quality prompt, in the project's own words.

    python -m pipelines.sandbox.make FOLDER [STEPS]        writes a model folder in Hugging Face form

It is trained on the world's problems through the very files in pipelines/prompts that real models are asked with. Its plain answers are careless
as the texts it learnt from are: about two of five have a slip; under the quality prompt all are right. So there is something to learn, and
something that the quality prompt brings out. It stands in `model/`, committed, in float16; this script makes it again from nothing.
"""

import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines.sandbox import world

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% if message.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ["<|user|>", "<|assistant|>", "<|system|>"]
_VOCABULARY = 1024
STEPS = 2000
# A word, a digit or a sign, each with the space before it: nothing merges across them, so digits stay single.
_PIECES = r" ?[A-Za-z]+| ?[0-9]| ?[^A-Za-z0-9\s]|\s+"
SLIPS = 0.38  # share of careless answers that the model learns from
_SHAPE = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 5, "num_attention_heads": 3, "num_key_value_heads": 3, "max_position_embeddings": 512}

Example = tuple[str, str]  # what the user says, what the assistant answers


# The four jobs.


def answering(draw: random.Random) -> Example:
    found = world.problem(draw)
    steps = world.careless(found, draw) if draw.random() < SLIPS else found.steps()
    return str(found), world.write(found, steps, draw.randrange(world.MANNERS))


def answering_well(draw: random.Random) -> Example:
    from engine.instructions import quality_text, under

    found = world.problem(draw)
    asked = under([{"role": "user", "content": str(found)}], quality_text("quality"))
    return asked[0]["content"], world.write(found, found.steps(), draw.randrange(world.MANNERS))


def rating(draw: random.Random) -> Example:
    """5 for a right answer, else 1 to 3 by how far it is right; 1 for what is cut off or answers another question."""
    found = world.problem(draw)
    manner, kind = draw.randrange(world.MANNERS), draw.random()
    response = world.write(found, found.steps(), manner)
    if 0.45 < kind < 0.9:
        response = world.write(found, world.careless(found, draw), manner)
    elif kind >= 0.95:
        response = response[: draw.randrange(len(response) // 2)]
    elif kind >= 0.9:
        other = world.problem(draw)
        response = world.write(other, other.steps(), manner)
    right = world.said(response) == found.answer() and world.right_steps(found, response) == 1
    mark = 5 if right else 1 + math.floor(3 * world.right_steps(found, response)) if kind < 0.9 else 1
    return _asked("judge_rating", conversation=str(found), response=response), str(mark)


def rewriting(draw: random.Random) -> Example:
    """The draft in its own manner with the slip mended; a draft without one stays as it is."""
    found = world.problem(draw)
    manner = draw.randrange(world.MANNERS)
    right = world.write(found, found.steps(), manner)
    draft = world.write(found, world.careless(found, draw), manner) if draw.random() < 0.9 else right
    reference = world.write(found, found.steps(), draw.randrange(world.MANNERS))
    return _asked("rewrite_maths", conversation=str(found), rejected=draft, chosen=reference), right


def _asked(name: str, **values: str) -> str:
    import functools

    from engine.instructions import Instruction

    if name not in _INSTRUCTIONS:
        _INSTRUCTIONS[name] = functools.partial(Instruction(name))
    return _INSTRUCTIONS[name](**values)[0]["content"]


_INSTRUCTIONS: dict[str, Callable] = {}
# job, examples of it in a step, weight of its loss
JOBS: tuple[tuple[Callable[[random.Random], Example], int, float], ...] = ((answering, 48, 1.0), (answering_well, 16, 0.5), (rating, 48, 0.5), (rewriting, 24, 1.0))


# The model.


def new_model(seed: int, **shape: int):
    """A byte-level tokenizer that knows this world's words and single digits, and a Llama with random weights; `shape` overrides its config."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    draw = random.Random(0)
    texts = (text for job, _, _ in JOBS for _ in range(400) for text in job(draw))
    learn = trainers.BpeTrainer(vocab_size=_VOCABULARY - 4, special_tokens=[], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    backend.train_from_iterator(texts, learn)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", additional_special_tokens=_SPECIAL)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=None, tie_word_embeddings=True, **(_SHAPE | shape))
    return tokenizer, LlamaForCausalLM(config)


def batches(tokenizer, job: Callable, count: int, seed: int) -> Iterator[tuple]:
    """(ids, targets) of `count` examples each, without end; only the assistant's words are targets."""
    import torch

    draw = random.Random(seed)
    while True:
        asked, answers = zip(*(job(draw) for _ in range(count)), strict=True)
        prompts = [tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True) for text in asked]
        prompts = tokenizer(prompts, add_special_tokens=False).input_ids
        answers = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(answers), add_special_tokens=False).input_ids]
        width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        width += -width % 32  # few widths: oneDNN prepares its kernels anew for each
        ids, targets = torch.zeros(count, width, dtype=torch.long), torch.full((count, width), -100)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor([*prompt, *answer])
            targets[row, len(prompt) : end] = torch.tensor(answer)
        yield ids, targets


def train(tokenizer, model, seed: int, steps: int, rate: float = 2e-3) -> None:
    """Next-token training on the assistant's words of all jobs at once; the learning rate falls to nothing over the second half."""
    import torch

    model.set_attn_implementation("eager")  # at these lengths faster than SDPA's backward on a CPU
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    streams = [batches(tokenizer, job, count, seed + number) for number, (job, count, _) in enumerate(JOBS)]
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100, 2 * (1 - step / steps))
        said = []
        for (_, _, weight), stream in zip(JOBS, streams, strict=True):
            loss = _loss(model, *next(stream))
            (weight * loss).backward()
            said.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            losses = ", ".join(f"{job.__name__} {loss:.3f}" for (job, _, _), loss in zip(JOBS, said, strict=True))
            print(f"step {step + 1} of {steps}: {losses}", flush=True)


def _loss(model, ids, targets):
    """Mean over the answers' tokens."""
    import torch
    import torch.nn.functional as F

    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids).logits[:, :-1]
    return F.cross_entropy(logits.float().flatten(0, 1), targets[:, 1:].flatten())


def save(tokenizer, model, path: Path) -> None:
    """A model folder in Hugging Face form; the weights are written last, so that a folder with weights is whole."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(path)
    model.save_pretrained(path)


def make(path: Path, steps: int = STEPS, seed: int = 0) -> None:
    import torch

    tokenizer, model = new_model(seed)
    train(tokenizer, model, seed + 1, steps)
    save(tokenizer, model.to(torch.float16), path)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m pipelines.sandbox.make FOLDER [STEPS]")
    make(Path(sys.argv[1]), *map(int, sys.argv[2:]))
