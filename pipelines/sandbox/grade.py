"""Accuracy on held-out problems of the sandbox: how many answers of each model are right, sampled as the recipe samples and greedily.

python -m pipelines.sandbox.grade PROBLEMS SEED NAME=MODEL …        a train folder stands for its last checkpoint
"""

import sys
from pathlib import Path

import polars as pl

from engine.ids import seed_of
from engine.models import Uses, open_model, places
from pipelines.sandbox import world
from schemas.errors import UserError, in_one_sentence
from schemas.manifest import read_json
from schemas.sections import Model, Sampling


def accuracy(
    model: Path, problems: int, seed: int, threads: int, temperature: float = 1.0
) -> dict[str, float]:
    """Shares of right answers: `right` at `temperature`, `greedy`, and of the sampled ones `steps`, the mean share of right steps."""
    use = Uses(Model(name=str(model)), "hf")
    opened = open_model(use, places(use)[0], threads, lambda done: None, None)
    asked = [[{"role": "user", "content": row["prompt"]}] for row in world.prompts(seed, problems)]
    prompts, found = opened.text.prompts(asked), {}
    for name, sampling in {
        "right": Sampling(temperature=temperature, max_tokens=96),
        "greedy": Sampling(temperature=0.0, max_tokens=96),
    }.items():
        samples = opened.generate(prompts, [[seed_of(seed, number)] for number in range(problems)], sampling)
        texts = opened.text.decode([group[0].ids for group in samples])
        found[name] = (
            sum(world.reward(messages, text) or 0 for messages, text in zip(asked, texts, strict=True))
            / problems
        )
        if name == "right":
            steps = [
                world.right_steps(known, text)
                for messages, text in zip(asked, texts, strict=True)
                if (known := world.read(messages[0]["content"]))
            ]
            found["steps"] = sum(steps) / len(steps)
    return found


def _folder(path: str) -> Path:
    folder = Path(path)
    if (folder / "manifest.json").exists() and not (folder / "config.json").exists():
        return folder / read_json(folder / "manifest.json")["checkpoint"]
    return folder


def main(problems: int, seed: int, named: list[str]) -> None:
    from schemas.devices import cores

    rows = []
    for item in named:
        name, equals, path = item.partition("=")
        if not equals:
            raise UserError(f"{item}: expected NAME=MODEL, such as before=pipelines/sandbox/model")
        found = accuracy(_folder(path), problems, seed, cores())
        rows.append(
            {
                "policy": name,
                "problems": problems,
                "right answers": f"{found['right']:.1%}",
                "right steps": f"{found['steps']:.1%}",
                "right if greedy": f"{found['greedy']:.1%}",
            }
        )
    with pl.Config(
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        fmt_str_lengths=60,
        tbl_width_chars=120,
    ):
        print(pl.DataFrame(rows))


if __name__ == "__main__":
    if len(sys.argv) < 4 or not all(word.isdigit() for word in sys.argv[1:3]):
        sys.exit("usage: python -m pipelines.sandbox.grade PROBLEMS SEED NAME=MODEL …")
    with in_one_sentence("nothing is kept of it"):
        main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
