"""Makes the sandbox's tiny model: one small Llama that answers, rates, rewrites and reacts to the quality prompt, in the project's own words.

    python -m pipelines.sandbox.make FOLDER        writes a model folder in Hugging Face form; an hour on two cores

It is trained on the world's problems through the very files in pipelines/prompts that real models are asked with. Its plain answers are careless
as the texts it learnt from are: about two of five have a slip; under the quality prompt all are right. So there is something to learn, and
something that the quality prompt brings out. To find another's slip is the hardest of its jobs: one mark for a whole response teaches it
nothing in a hundred thousand examples, so the later parts of the training say for every token whether a slip has happened by then, to heads on
the upper layers that are thrown away afterwards. The model stands in `model/`, committed, in float16; this script makes it again from nothing.
"""

import functools
import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.sandbox import world

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% if message.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ["<|user|>", "<|assistant|>", "<|system|>"]
_VOCABULARY = 1024
# A word, a digit or a sign, each with the space before it: nothing merges across them, so digits stay single.
_PIECES = r" ?[A-Za-z]+| ?[0-9]| ?[^A-Za-z0-9\s]|\s+"
SLIPS = 0.38  # share of careless answers that the model learns from
_SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "max_position_embeddings": 512,
}


@dataclass(frozen=True)
class Example:
    """What the user says and what the assistant answers. Of a response to be rated: where in `asked` it stands, and where it goes wrong, if it does."""

    asked: str
    answer: str
    response: tuple[int, int] | None = None
    wrong_from: int | None = None


# The four jobs.


def answering(draw: random.Random) -> Example:
    found = world.problem(draw)
    steps = world.careless(found, draw) if draw.random() < SLIPS else found.steps()
    return Example(str(found), world.write(found, steps, draw.randrange(world.MANNERS)))


def answering_well(draw: random.Random) -> Example:
    from engine.instructions import quality_text, under

    found = world.problem(draw)
    asked = under([{"role": "user", "content": str(found)}], quality_text("quality"))
    return Example(asked[0]["content"], world.write(found, found.steps(), draw.randrange(world.MANNERS)))


def rating(draw: random.Random) -> Example:
    """5 for a right answer, else 1 to 3 by how far it is right; 1 for what is cut off or answers another question."""
    found = world.problem(draw)
    manner, kind = draw.randrange(world.MANNERS), draw.random()
    good = response = world.write(found, found.steps(), manner)
    if 0.45 < kind < 0.9:
        response = world.write(found, world.careless(found, draw), manner)
    elif kind >= 0.95:
        response = good[: draw.randrange(len(good) // 2)]
    elif kind >= 0.9:
        other = world.problem(draw)
        response = world.write(other, other.steps(), manner)
    right = world.said(response) == found.answer() and world.right_steps(found, response) == 1
    mark = 5 if right else 1 + math.floor(3 * world.right_steps(found, response)) if kind < 0.9 else 1
    asked = _asked("judge_rating", conversation=str(found), response=response)
    begin = asked.rindex("Response:\n") + len("Response:\n")
    return Example(
        asked,
        str(mark),
        (begin, begin + len(response)),
        None if right else begin + len(os.path.commonprefix([good, response])),
    )


def rewriting(draw: random.Random) -> Example:
    """The draft in its own manner with the slip mended; a draft without one stays as it is."""
    found = world.problem(draw)
    manner = draw.randrange(world.MANNERS)
    right = world.write(found, found.steps(), manner)
    draft = world.write(found, world.careless(found, draw), manner) if draw.random() < 0.9 else right
    reference = world.write(found, found.steps(), draw.randrange(world.MANNERS))
    return Example(_asked("rewrite_maths", conversation=str(found), rejected=draft, chosen=reference), right)


@functools.cache
def _instruction(name: str):
    from engine.instructions import Instruction

    return Instruction(name)


def _asked(name: str, **values: str) -> str:
    return _instruction(name)(**values)[0]["content"]


@dataclass(frozen=True)
class Part:
    """A part of the training: its steps, how many examples of each job a step has and what its loss weighs, whether slips are pointed out, and the
    learning rate: `rate`, and from the share `constant` of the steps on falling to `end`."""

    steps: int
    jobs: tuple[tuple[Callable[[random.Random], Example], int, float], ...]
    slips_shown: bool
    rate: float
    constant: float
    end: float


# First to speak, answer and rewrite; then to see slips; then above all to rate.
PARTS = (
    Part(
        1000,
        ((answering, 48, 1.0), (answering_well, 16, 0.5), (rating, 48, 0.5), (rewriting, 24, 1.0)),
        False,
        2e-3,
        1.0,
        2e-3,
    ),
    Part(
        750,
        ((answering, 24, 1.0), (answering_well, 12, 0.5), (rating, 64, 1.0), (rewriting, 12, 1.0)),
        True,
        1.5e-3,
        0.8,
        1.25e-3,
    ),
    Part(
        600,
        ((answering, 16, 0.5), (answering_well, 6, 0.3), (rating, 96, 2.0), (rewriting, 8, 0.5)),
        True,
        1.5e-3,
        0.5,
        0.0,
    ),
)


# The model.


def new_model(seed: int, **shape: int):
    """A byte-level tokenizer that knows this world's words and single digits, and a Llama with random weights; `shape` overrides its config."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    draw = random.Random(0)
    examples = (job(draw) for job, _, _ in PARTS[0].jobs for _ in range(400))
    texts = (text for example in examples for text in (example.asked, example.answer))
    learn = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - 4,
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, learn)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", additional_special_tokens=_SPECIAL
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        tie_word_embeddings=True,
        **(_SHAPE | shape),
    )
    return tokenizer, LlamaForCausalLM(config)


@dataclass(frozen=True)
class Batch:
    """ids (B, T); targets (B, T), -100 but for the assistant's words; slips (B, T): of a response to be rated and what follows it 1 where it has gone
    wrong by then and 0 where not, -1 elsewhere."""

    ids: object
    targets: object
    slips: object


def batches(tokenizer, job: Callable[[random.Random], Example], count: int, seed: int) -> Iterator[Batch]:
    """Batches of `count` examples of a job, without end."""
    import torch

    draw = random.Random(seed)
    while True:
        examples = [job(draw) for _ in range(count)]
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": one.asked}], tokenize=False, add_generation_prompt=True
            )
            for one in examples
        ]
        coded = tokenizer(prompts, add_special_tokens=False, return_offsets_mapping=True)
        answers = [
            [*ids, tokenizer.eos_token_id]
            for ids in tokenizer([one.answer for one in examples], add_special_tokens=False).input_ids
        ]
        width = max(len(p) + len(a) for p, a in zip(coded.input_ids, answers, strict=True))
        width += -width % 32  # few widths: oneDNN prepares its kernels anew for each
        ids, targets, slips = (torch.full((count, width), value) for value in (0, -100, -1))
        for row, (one, text, prompt, places, answer) in enumerate(
            zip(examples, prompts, coded.input_ids, coded.offset_mapping, answers, strict=True)
        ):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor([*prompt, *answer])
            targets[row, len(prompt) : end] = torch.tensor(answer)
            if one.response:
                shift = text.index(one.asked)
                known = [(at, b - shift) for at, (a, b) in enumerate(places) if b - shift > one.response[0]]
                for at, last in known:
                    slips[row, at] = int(
                        one.wrong_from is not None and (last > one.wrong_from or last > one.response[1])
                    )
        yield Batch(ids, targets, slips)


def train(tokenizer, model, part: Part, seed: int) -> None:
    """Next-token training on the assistant's words of all jobs at once."""
    import torch

    model.set_attn_implementation("eager")  # at these lengths faster than SDPA's backward on a CPU
    heads = (
        torch.nn.ModuleList(
            torch.nn.Linear(model.config.hidden_size, 1) for _ in range(model.config.num_hidden_layers)
        )
        if part.slips_shown
        else None
    )
    parameters = [*model.parameters(), *(heads.parameters() if heads else ())]
    optimizer = torch.optim.AdamW(parameters, lr=part.rate, betas=(0.9, 0.98), weight_decay=0.05)
    streams = [
        batches(tokenizer, job, count, seed + number) for number, (job, count, _) in enumerate(part.jobs)
    ]
    for step in range(part.steps):
        fallen = (
            max(0.0, step / part.steps - part.constant) / (1 - part.constant) if part.constant < 1 else 0.0
        )
        for group in optimizer.param_groups:
            group["lr"] = min(1, (step + 1) / 100) * (part.rate + fallen * (part.end - part.rate))
        said = []
        for (_, _, weight), stream in zip(part.jobs, streams, strict=True):
            loss, slips = _losses(model, heads, next(stream))
            (weight * loss + slips).backward()
            said.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == part.steps - 1:
            losses = ", ".join(
                f"{job.__name__} {loss:.3f}" for (job, _, _), loss in zip(part.jobs, said, strict=True)
            )
            print(f"step {step + 1} of {part.steps}: {losses}", flush=True)


def _losses(model, heads, batch: Batch):
    """The mean over the answers' tokens; and, where slips are shown, what the heads on the upper layers miss of them."""
    import torch
    import torch.nn.functional as F

    with torch.autocast("cpu", torch.bfloat16):
        out = model.base_model(batch.ids, output_hidden_states=heads is not None)
        logits = model.get_output_embeddings()(out.last_hidden_state)[:, :-1]
        guesses = (
            [head(hidden)[..., 0] for head, hidden in zip(heads, out.hidden_states[1:], strict=True)]
            if heads
            else []
        )
    loss, known = (
        F.cross_entropy(logits.float().flatten(0, 1), batch.targets[:, 1:].flatten()),
        batch.slips >= 0,
    )
    if not heads or not known.any():
        return loss, 0.0
    return loss, sum(
        F.binary_cross_entropy_with_logits(guess.float()[known], batch.slips[known].float())
        for guess in guesses[2:]
    )


def save(tokenizer, model, path: Path) -> None:
    """A model folder in Hugging Face form; the weights are written last, so that a folder with weights is whole."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(path)
    model.save_pretrained(path)


def make(path: Path, seed: int = 0) -> None:
    import torch

    tokenizer, model = new_model(seed)
    for number, part in enumerate(PARTS):
        torch.manual_seed(seed + number + 1)
        train(tokenizer, model, part, seed + 1 + 100 * number)
    save(tokenizer, model.to(torch.float16), path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pipelines.sandbox.make FOLDER")
    make(Path(sys.argv[1]))
