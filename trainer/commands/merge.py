"""`trainer merge`: an adapter and its base as one model folder."""

from pathlib import Path

import click

from schemas.screen import say


@click.command("merge")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="The folder to make; nothing may be there yet.",
)
@click.option(
    "--dtype",
    default="auto",
    show_default="as the base has it",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="Of the weights that are written.",
)
def command(adapter: Path, output: Path, dtype: str) -> None:
    """Write an ADAPTER merged into its base: a model folder that every tool opens, vLLM too.

    ADAPTER: a checkpoint of [train.lora], a train folder (its last one), or any LoRA adapter of PEFT's, as a
    folder or by its name on the hub. The two are merged in float32.

    \b
    Example:
      trainer merge runs/hh/train-49a0c16d8e43 -o models/hh-merged
    """
    from trainer.merge import merge

    say(f"{output}: {merge(adapter, output, dtype)}")
