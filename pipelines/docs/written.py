"""The parts of pages that are written from the code, so that no page says what the code does not do.

A part stands in its page between two lines:

    <!-- generated: keys -->
    <!-- end -->

- keys: every key of a recipe, from the fields of schemas/sections/ (key_tables.py);
- commands: every command with its `--help`;
- losses: every loss with its equation and its keys, from the docstrings in trainer/losses/.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from pipelines.docs.key_tables import key_table
from schemas.sections import SECTIONS, Lora

_FOLDER = Path(__file__).parent
PAGES = tuple(_FOLDER / f"{name}.md" for name in ("recipes", "commands", "losses"))
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_WIDTH = 100
_PAPER = re.compile(r"arXiv (\d{4}\.\d{5})")


def as_it_should_be(page: Path) -> str:
    """The text of a page with the parts that are written from the code."""

    def written(part: re.Match[str]) -> str:
        return f"{part[1]}\n{_PARTS[part[2]]()}\n\n{part[3]}"

    return _PART.sub(written, page.read_text(encoding="utf-8"))


def _keys() -> str:
    """Every section of a recipe with its keys, and the tables of [train] that are not a loss's."""
    from trainer.losses import sft

    parts: list[str] = []
    for name, section in SECTIONS.items():
        parts += [f"### `[{name}]`", inspect.cleandoc(section.__doc__ or "")]
        table = key_table(section)
        parts.append(table or "It has no keys.")
        if name == "train":
            parts.append("A loss's keys stand in `[train.<loss>]`: [losses](losses.md#all-of-them).")
            parts += ["### `[train.lora]`", inspect.cleandoc(Lora.__doc__ or ""), key_table(Lora)]
            parts += ["### `[train.sft]`", "An SFT term beside any loss.", key_table(sft.Config)]
    return "\n\n".join(parts)


def _commands() -> str:
    """Every command's help."""
    import engine.cli
    import pipelines.evidence.__main__
    import pipelines.run
    import trainer.cli

    parts: list[str] = []
    for program, group in (("engine", engine.cli.main), ("trainer", trainer.cli.main)):
        parts.append(f"## {program}")
        above = _context(group, program)
        parts.append(_as_block(group.get_help(above)))
        for name in group.list_commands(above):
            command = group.get_command(above, name)
            assert command is not None
            parts.append(f"### {program} {name}")
            parts.append(_as_block(command.get_help(_context(command, name, above))))
    rounds = _context(pipelines.run.main, "python -m pipelines.run")
    parts += ["## python -m pipelines.run", _as_block(pipelines.run.main.get_help(rounds))]
    evidence = pipelines.evidence.__main__.main
    own = _context(evidence, "python -m pipelines.evidence")
    parts += ["## python -m pipelines.evidence", _as_block(evidence.get_help(own))]
    return "\n\n".join(parts)


def _context(command: click.Command, name: str, above: click.Context | None = None) -> click.Context:
    """In which a command's help is `command --help` on a terminal of a fixed width."""
    names = command.context_settings.get("help_option_names")
    return click.Context(
        command, above, name, terminal_width=_WIDTH, max_content_width=_WIDTH, help_option_names=names
    )


def _as_block(text: str) -> str:
    return f"```text\n{text.strip()}\n```"


def _losses() -> str:
    """Every loss: what it is, its equation, what else its docstring says, its keys, and what it needs."""
    from trainer.losses import NAMES, described, loss_module, sft

    parts: list[str] = []
    for name in NAMES:
        module = loss_module(name)
        loss = described(name)
        parts.append(f"### {name}")
        parts.append(_with_links(loss.what))
        parts.append(_as_block("\n".join(loss.equation)))
        parts += [_with_links(text) for text in _after_the_equation(module.__doc__)]
        parts.append(key_table(module.Config))
        if loss.needs:
            parts.append(f"It needs {loss.needs}.")
    what, equation = inspect.cleandoc(sft.__doc__ or "").split("\n\n")
    parts += ["### sft", what, _as_block(equation), key_table(sft.Config)]
    return "\n\n".join(parts)


def _after_the_equation(docstring: str | None) -> Iterator[str]:
    """The paragraphs of a loss's docstring behind what it is and its equation, each in one line."""
    for paragraph in inspect.cleandoc(docstring or "").split("\n\n")[2:]:
        yield " ".join(paragraph.splitlines())


def _with_links(text: str) -> str:
    return _PAPER.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)


_PARTS: dict[str, Callable[[], str]] = {"keys": _keys, "commands": _commands, "losses": _losses}
