"""`trainer losses`: what each loss is, and what it needs."""

import click

from schemas.screen import say


@click.command("losses")
def command() -> None:
    """List the losses: what each is, its equation, its keys in [train.<loss>] and what it needs."""
    from trainer.losses import NAMES, described

    for name in NAMES:
        loss = described(name)
        say(name, bold=True, nl=False)
        say(f"  {loss.what}")
        for line in loss.equation:
            say(f"    {line}")
        say(f"    keys: {loss.keys}")
        if loss.needs:
            say(f"    needs {loss.needs}")
        say()
    say(
        'choose one with train.loss = "name"; [train.sft] weight and reduction add an SFT term to any of them'
    )
