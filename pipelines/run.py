"""A recipe's rounds: precompute, train, precompute with the new policy, train, …

    python -m pipelines.run RECIPE -o RUN [--set rounds.n=3]

Round r lies in RUN/round-r, an ordinary run folder. Its model, which answers, judges and is the reference, is the policy that round r − 1 ended
with; so its data is new because the weights' digest is, and nothing else tells the rounds apart. Killed at any point, the same command goes on:
what is finished is found finished. Ended rounds stand in RUN/rounds.json.
"""

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click

from schemas.commit import commit_json
from schemas.errors import exit_on_user_error
from schemas.identity import weights_digest
from schemas.recipe import Recipe, load
from schemas.sections import Rounds


def rounds(path: Path, recipe: Recipe, settings: tuple[str, ...] = ()) -> list[Path]:
    """The policies that the rounds end with, each made if it is not there."""
    from engine.precompute import precompute

    count, policies, told = recipe.sections.get("rounds", Rounds()).n, [], []
    for number in range(1, count + 1):
        if policies:
            recipe = Recipe(
                recipe.sections
                | {
                    "model": replace(
                        recipe.section("model"), name=str(policies[-1].resolve()), revision="main"
                    )
                },
                recipe.seed,
            )
        run = path / f"round-{number}"
        click.echo(
            click.style(
                f"\nround {number} of {count}: {run}, model {recipe.section('model').name}", bold=True
            )
        )
        precompute(run, recipe, 0)
        policies.append(_train(run, recipe, settings))
        told.append(
            {
                "round": number,
                "run": run.name,
                "policy": str(policies[-1].relative_to(path)),
                "weights": weights_digest(policies[-1]),
            }
        )
        commit_json(path / "rounds.json", told)
    return policies


def _train(run: Path, recipe: Recipe, settings: tuple[str, ...]) -> Path:
    """On one device here; on several in processes of their own, whose result is then found finished."""
    import torch

    from trainer.train import train

    if recipe.section("model").device in ("auto", "cuda") and torch.cuda.device_count() > 1:
        words = [
            word
            for setting in settings
            if setting.startswith(("train.", "seed="))
            for word in ("--set", setting)
        ]
        command = [
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={torch.cuda.device_count()}",
            "-m",
            "trainer.cli",
            "run",
            str(run / "recipe.toml"),
            "-o",
            str(run),
            *words,
        ]
        if code := subprocess.run([sys.executable, *command]).returncode:
            sys.exit(code)
    return train(run, recipe)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option(
    "-o",
    "--output",
    "run",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the rounds' run folders; what it holds is reused.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="section.key=value, over the recipe's own; may be given several times.",
)
def main(recipe: str, run: Path, settings: tuple[str, ...]) -> None:
    """Precompute and train as often as [rounds] n of a RECIPE says, each round with the policy of the one before.

    \b
    Example:
      python -m pipelines.run pipelines/recipes/sandbox.toml -o runs/rounds --set rounds.n=2
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("prefmill").setLevel(logging.INFO)
    with exit_on_user_error("what is finished is kept: run the same command to go on"):
        rounds(run, load(recipe, settings), settings)


if __name__ == "__main__":
    main(prog_name="python -m pipelines.run")
