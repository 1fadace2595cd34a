"""The command `engine`: raw rows to pairs. The commands are in engine/commands/."""

import click

from schemas.commands import CONTEXT, Group, log_to_screen

COMMANDS = {
    "docs": "engine.commands.docs",
    "export": "engine.commands.export",
    "init": "engine.commands.init",
    "plan": "engine.commands.plan",
    "precompute": "engine.commands.precompute",
    "report": "engine.commands.report",
    "show": "engine.commands.show",
    "sql": "engine.commands.sql",
    "status": "engine.commands.status",
    "verify": "engine.commands.verify",
}


@click.group(
    cls=Group,
    modules=COMMANDS,
    kept="what is finished is kept: run the same command to go on",
    readers=("docs", "export", "init", "plan", "report", "show", "sql", "status"),
    context_settings=CONTEXT,
)
@click.version_option(package_name="prefmill", message="prefmill %(version)s")
def main() -> None:
    """Preference data to cached shards: candidates, scores and per-token reference log-probs, in bulk, into
    Parquet."""
    log_to_screen()


if __name__ == "__main__":
    main()
