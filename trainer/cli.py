"""The command `trainer`: pairs to a policy. The commands are in trainer/commands/."""

import click

from schemas.commands import CONTEXT, Group, log_to_screen
from trainer import launcher  # noqa: F401 (it notes at once who started this process)

COMMANDS = {
    "compare": "trainer.commands.compare",
    "eval": "trainer.commands.evaluate",
    "losses": "trainer.commands.losses",
    "merge": "trainer.commands.merge",
    "plan": "trainer.commands.plan",
    "run": "trainer.commands.run",
}


@click.group(
    cls=Group,
    modules=COMMANDS,
    kept="run the same command to go on from the last checkpoint, or to begin again where there is none",
    readers=("compare", "eval", "losses", "plan"),
    context_settings=CONTEXT,
)
@click.version_option(package_name="prefmill", message="prefmill %(version)s")
def main() -> None:
    """Optimise a policy on cached pairs, without a reference model in memory."""
    log_to_screen()


if __name__ == "__main__":
    main()
