"""Accuracy on held-out problems of the sandbox: how many answers of each model are right, sampled and greedy.

    python -m pipelines.sandbox.grade PROBLEMS SEED NAME=MODEL …

- A train folder stands for its last checkpoint.
- Sampling is at temperature 1.0, as in the sandbox's recipe.
"""

import sys
from pathlib import Path

import polars as pl

from engine.ids import seed_of
from engine.models.open import open_model, places
from engine.models.spec import ModelSpec, resolve
from engine.text import TemplateError, Text
from pipelines.sandbox import world
from schemas.devices import cores
from schemas.errors import UserError, exit_on_user_error
from schemas.manifest import MANIFEST, read_json
from schemas.screen import say
from schemas.screen_tables import as_table
from schemas.sections import Model, Sampling
from schemas.store import open_store

Conversation = list[dict[str, str]]
_MAX_TOKENS = 96  # of a response


def accuracy(
    model: Path,
    problems: int,
    seed: int,
    threads: int,
    temperature: float = 1.0,
) -> dict[str, float]:
    """Score a model folder on `problems` problems drawn with `seed`; all shares are from 0 to 1.

    - right: right answers, sampled at `temperature`
    - steps: the mean share of right steps in the same samples
    - greedy: right answers of greedy decoding
    """
    spec = ModelSpec(Model(name=str(model)), "hf")
    opened = open_model(resolve(spec), places(spec)[0], threads)
    conversations: list[Conversation] = []
    for row in world.prompts(seed, problems):
        messages = [{"role": "user", "content": row["prompt"]}]
        conversations.append(messages)
    prompts = _prompt_ids(opened.text, conversations)
    seeds = [[seed_of(seed, number)] for number in range(problems)]

    def responses(sampling: Sampling) -> list[str]:
        groups = opened.generate(prompts, seeds, sampling)
        first_ids = [group[0].ids for group in groups]
        return opened.text.decode(first_ids)

    sampled = responses(Sampling(temperature=temperature, max_tokens=_MAX_TOKENS))
    greedy = responses(Sampling(temperature=0.0, max_tokens=_MAX_TOKENS))
    return {
        "right": _share_of_right_answers(conversations, sampled),
        "steps": _share_of_right_steps(conversations, sampled),
        "greedy": _share_of_right_answers(conversations, greedy),
    }


def _prompt_ids(text: Text, conversations: list[Conversation]) -> list[list[int]]:
    """The token ids of each conversation. Raises TemplateError if the model's template refuses one."""
    prompts: list[list[int]] = []
    for ids in text.prompts(conversations):
        if isinstance(ids, TemplateError):
            raise ids
        prompts.append(ids)
    return prompts


def _share_of_right_answers(conversations: list[Conversation], responses: list[str]) -> float:
    total = 0.0
    for messages, response in zip(conversations, responses, strict=True):
        total += world.reward(messages, response) or 0
    return total / len(conversations)


def _share_of_right_steps(conversations: list[Conversation], responses: list[str]) -> float:
    """The mean over the responses whose prompt is a problem of this world."""
    shares: list[float] = []
    for messages, response in zip(conversations, responses, strict=True):
        problem = world.read(messages[0]["content"])
        if problem:
            shares.append(world.right_steps(problem, response))
    return sum(shares) / len(shares)


def _model_folder(path: str) -> Path:
    """The folder itself, or the last checkpoint of a train folder."""
    folder = open_store(path)
    if folder.exists(MANIFEST) and not folder.exists("config.json"):
        return folder.local_path(read_json(folder, MANIFEST)["checkpoint"])
    return folder.local_path()


def main(problems: int, seed: int, named_models: list[str]) -> None:
    """Print a table of accuracies. Raises UserError if an item of `named_models` is not NAME=MODEL."""
    rows: list[dict[str, str | int]] = []
    for item in named_models:
        name, equals, path = item.partition("=")
        if not equals:
            raise UserError(f"{item}: expected NAME=MODEL, such as before=pipelines/sandbox/model")
        folder = _model_folder(path)
        shares = accuracy(
            folder,
            problems,
            seed,
            cores(),
        )
        rows.append(
            {
                "policy": name,
                "problems": problems,
                "right answers": f"{shares['right']:.1%}",
                "right steps": f"{shares['steps']:.1%}",
                "right if greedy": f"{shares['greedy']:.1%}",
            }
        )
    say(as_table(pl.DataFrame(rows), fmt_str_lengths=60, tbl_width_chars=120))


if __name__ == "__main__":
    if len(sys.argv) < 4 or not all(word.isdigit() for word in sys.argv[1:3]):
        sys.exit("usage: python -m pipelines.sandbox.grade PROBLEMS SEED NAME=MODEL …")
    count = int(sys.argv[1])
    seed = int(sys.argv[2])
    with exit_on_user_error("nothing is kept of it"):
        main(count, seed, sys.argv[3:])
