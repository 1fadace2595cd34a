"""`trainer losses`: what each loss is, and what it needs."""

import click


@click.command("losses")
def command() -> None:
    """List the losses: what each is, its equation, its keys in [train.<loss>] and what it needs."""
    from trainer.losses import NAMES, described

    for name in NAMES:
        loss = described(name)
        click.echo(f"{click.style(name, bold=True)}  {loss.what}")
        for line in loss.equation:
            click.echo(f"    {line}")
        click.echo(f"    keys: {loss.keys}")
        click.echo(f"    needs {loss.needs}\n" if loss.needs else "")
    click.echo(
        'choose one with train.loss = "name"; [train.sft] weight and reduction add an SFT term to any of them'
    )
