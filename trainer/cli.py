"""The command `trainer`: pairs to a policy. Imports are inside the commands: `--help` must not wait for torch."""

import logging
import os
from pathlib import Path

import click

from schemas.errors import UserError, exit_on_user_error


class Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        with exit_on_user_error("the last checkpoint is kept: run the same command to go on from it"):
            return super().invoke(ctx)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="prefmill", message="prefmill %(version)s")
def main() -> None:
    """Optimise a policy on cached pairs, without a reference model in memory."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("prefmill").setLevel(logging.INFO)


@main.command()
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option(
    "-o",
    "--output",
    "run",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Run folder that `engine precompute` made.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="section.key=value, over the recipe's own; may be given several times.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on from the last checkpoint of the same settings, or start them again.",
)
def run(recipe: str, run: Path, settings: tuple[str, ...], resume: bool) -> None:
    """Train as [train] of a RECIPE says, on the pairs of a run folder.

    The model, and all else that is not [train], is what the run was made with. Other settings make another folder train-<fingerprint> in
    it; the same ones go on where they stopped. Under torchrun, one process a GPU.

    \b
    Example:
      trainer run pipelines/recipes/dpo.toml -o runs/hh --set train.max_steps=50
      torchrun --nproc-per-node 8 -m trainer.cli run pipelines/recipes/dpo.toml -o runs/hh
    """
    from schemas.manifest import read_plan
    from schemas.recipe import Recipe, load

    ours = [setting for setting in settings if setting.split(".")[0].split("=")[0] in ("train", "seed")]
    models = [setting for setting in settings if setting.startswith("model.")]
    if other := [setting for setting in settings if setting not in ours + models]:
        raise UserError(
            f"--set {other[0]} is not the trainer's: the run was made with its own; give it to `engine precompute`"
        )
    given = load(recipe, ours)
    read_plan(run)  # says clearly where this is no run
    made = load(run / "recipe.toml", models)
    sections = made.sections | {"train": given.section("train")}
    if "model" in given.sections and given.section("model").name and not models:
        sections["model"] = given.section("model")

    from trainer.train import train

    train(run, Recipe(sections, given.seed), resume)


@main.command("eval")
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.argument("policy", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="section.key=value, over the policy's own recipe, such as train.loss.",
)
@click.option("--format", "form", default="table", show_default=True, type=click.Choice(["table", "json"]))
def evaluate(run: Path, policy: Path | None, settings: tuple[str, ...], form: str) -> None:
    """Measure a POLICY on the held-out pairs of a RUN: a checkpoint, a train folder (its last one), or any model folder.

    Without POLICY it is the reference itself. The loss is the one it was trained by.

    \b
    Example:
      trainer eval runs/hh runs/hh/train-49a0c16d8e43
      trainer eval runs/hh
    """
    import json

    from schemas.identity import resolve
    from schemas.manifest import read_plan
    from trainer import evaluate as job

    read_plan(run)  # says clearly where this is no run
    recipe = job.recipe_of(run, policy, settings)
    folder = job.folder_of(policy) if policy else resolve(recipe.section("model"))
    found = job.evaluate(run, recipe, folder)
    if os.environ.get("RANK", "0") == "0":
        lines = [f"{name:<26} {value:>12.6g}" for name, value in found.items()]
        click.echo(
            json.dumps({"policy": str(folder)} | found)
            if form == "json"
            else "\n".join([str(folder), *lines])
        )


@main.command()
@click.argument(
    "runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(file_okay=False, path_type=Path)
)
@click.option(
    "-o",
    "--output",
    default="compare.png",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The picture, a PNG.",
)
@click.option("--format", "form", default="table", show_default=True, type=click.Choice(["table", "json"]))
def compare(runs: tuple[Path, ...], output: Path, form: str) -> None:
    """Show training runs side by side: a table of where they ended, and one picture of their curves.

    RUN is a run folder, for all that was trained in it, or one of its train folders. Runs that differ in their seed alone become one curve with
    a band. A run that is still at work is shown as far as it is.

    \b
    Example:
      trainer compare runs/hh
      trainer compare runs/hh/train-49a0c16d8e43 runs/hh/train-1f0f7c2b9d11 -o two.png
    """
    import json

    import polars as pl

    from schemas.commit import commit_bytes
    from trainer import compare as job

    if output.suffix.lower() != ".png":
        raise UserError(f"-o {output}: the picture is a PNG; give a name that ends in .png")
    found = job.read(runs)
    rows = job.table(found)
    commit_bytes(output, job.picture(found))
    if form == "json":
        click.echo("\n".join(json.dumps(row) for row in rows.to_dicts()))
        return
    with pl.Config(
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_rows=-1,
        tbl_cols=-1,
        fmt_str_lengths=80,
        tbl_width_chars=240,
        float_precision=3,
    ):
        click.echo(job.shown(rows))
    click.echo(f"curves: {output}")


@main.command()
def losses() -> None:
    """List the losses: what each is, its equation, its keys in [train.<loss>] with their defaults, and what it needs of the pairs."""
    from trainer.losses import NAMES, described

    for name in NAMES:
        what, equation, keys, needs = described(name)
        click.echo(f"{click.style(name, bold=True)}  {what}")
        for line in equation:
            click.echo(f"    {line}")
        click.echo(f"    keys: {keys}")
        click.echo(f"    needs {needs}\n" if needs else "")
    click.echo(
        'choose one with train.loss = "name"; [train.sft] weight and reduction add an SFT term to any of them'
    )


if __name__ == "__main__":
    main()
