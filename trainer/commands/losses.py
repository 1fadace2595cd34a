"""`trainer losses`: what each loss is, and what it needs."""

import click

from schemas.screen import folded, say

_LAST = 'choose one with train.loss = "name"; [train.sft] weight and reduction add an SFT term to any of them'


@click.command("losses")
def command() -> None:
    """List the losses: what each is, its equation, its keys in [train.<loss>] and what it needs."""
    from trainer.losses import NAMES, described

    for name in NAMES:
        loss = described(name)
        first, *more = folded(f"{name}  {loss.what}", indent=4)
        say(name, bold=True, nl=False)
        say(first.removeprefix(name))
        for line in more:
            say(line)
        for line in loss.equation:
            say(f"    {line}")
        _say_folded(f"    keys: {loss.keys}", indent=6)
        if loss.needs:
            _say_folded(f"    needs {loss.needs}", indent=6)
        say()
    _say_folded(_LAST, indent=0)


def _say_folded(text: str, indent: int) -> None:
    for line in folded(text, indent):
        say(line)
