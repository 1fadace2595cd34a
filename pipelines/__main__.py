"""Starts either command line where the project is not installed, from its folder or with it on PYTHONPATH.

    python -m pipelines engine precompute RECIPE -o RUN
    python -m pipelines trainer run RECIPE -o RUN

Whoever starts the program hands over where prompts and SQL are: an installed package by its entry point, this
one by being imported.
"""

import importlib
import sys

PROGRAMS = ("engine", "trainer")


def main(arguments: list[str]) -> None:
    """Run a program with its arguments, the first of which is its name."""
    if not arguments or arguments[0] not in PROGRAMS:
        sys.exit(f"usage: python -m pipelines {'|'.join(PROGRAMS)} COMMAND …")
    program, *rest = arguments
    importlib.import_module(f"{program}.cli").main(rest, prog_name=program)


if __name__ == "__main__":
    main(sys.argv[1:])
