"""python -m pipelines.evidence: try the papers' claims, where the true reward is known.

See the package's docstring.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from schemas.commands import CONTEXT, Command, settings_option
from schemas.errors import UserError, did_you_mean, exit_on_user_error
from schemas.screen import say

if TYPE_CHECKING:
    from pipelines.evidence.real import RealSetting
    from pipelines.evidence.setting import Setting

_REAL = "real"
_KEPT = "what is finished is kept: run the same command to go on"


@click.command(cls=Command, context_settings=CONTEXT)
@click.argument("names", metavar="[CLAIM]...", nargs=-1)
@click.option(
    "-o", "--output", "out", default="runs/evidence", show_default=True, help="Folder of the results."
)
@click.option("--list", "is_list", is_flag=True, help="The claims, and what they are.")
@click.option(
    "--seeds", show_default="5, of `real` 3", type=click.IntRange(2), help="Seeds of each comparison."
)
@click.option("--problems", default=1200, show_default=True, type=click.IntRange(50), help="Of each seed.")
@click.option(
    "--test-problems", default=500, show_default=True, type=click.IntRange(10), help="That policies answer."
)
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Of `real`.")
@click.option(
    "--data",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A preference file of `real`; may be given several times.",
)
@click.option(
    "--pairs",
    default=300,
    show_default=True,
    type=click.IntRange(20),
    help="Of each --data, from its first on.",
)
@settings_option("section.key=value, over the recipe of `real`; may be given several times.")
@click.option("--write", "is_written", is_flag=True, help="Put what was found into the documentation.")
@click.option("--workers", default=0, show_default="one a core", type=click.IntRange(0), help="Processes.")
def main(
    names: Sequence[str],
    out: str,
    is_list: bool,
    seeds: int | None,
    problems: int,
    test_problems: int,
    workers: int,
    model: Path | None,
    data: tuple[Path, ...],
    pairs: int,
    settings: tuple[str, ...],
    is_written: bool,
) -> None:
    """Try the papers' claims where the true reward of every response is known; all of them if none is named.

    The claim `real` tries the methods on a chat model (--model, a folder) and preference files (--data).
    The results lie in a run folder: `engine sql runs/evidence`, `engine report runs/evidence`. What is
    finished there is not made again.

    \b
    Example:
      python -m pipelines.evidence dpo rpo
    """
    if is_list:
        _list()
        return
    _check_names(names)
    where = Path(out).resolve()
    if is_written:
        _write(where)
        return
    if _REAL in names and not (model and data):
        raise UserError("real needs a chat model and preference pairs: --model FOLDER --data FILE")
    with exit_on_user_error(_KEPT):
        from pipelines.evidence.real import settings_of
        from pipelines.evidence.setting import Setting
        from schemas.devices import cores

        workers = workers or cores()
        setting = Setting(seeds or 5, problems, test_problems, workers=workers)
        real = settings_of(model, data, settings=settings, pairs=pairs, seeds=seeds or 3, workers=workers)
        _try_all(list(dict.fromkeys(names or _names())), where, setting, real)


def _names() -> list[str]:
    from pipelines.evidence.claims import NAMES

    return [*NAMES, _REAL]


def _list() -> None:
    from pipelines.evidence.claims import NAMES, claim

    for name in NAMES:
        found = claim(name)
        say(f"{name:<6} {found.title} ({found.paper})")
    say(f"{_REAL:<6} A real model: what carries over (--model and --data)")


def _check_names(names: Sequence[str]) -> None:
    known = _names()
    for name in names:
        if name not in known:
            raise UserError(f"no claim {name}: {did_you_mean(name, known)}")


def _write(out: Path) -> None:
    from pipelines.evidence import page

    if not (out / page.PAGES).exists():
        raise UserError(f"{out}: no claim was tried there yet; run this command without --write")
    document = Path(__file__).parents[1] / "docs" / "evidence.md"
    written = page.put_into(document, out, _names())
    say(f"{document}: {', '.join(written)}")


def _try_all(names: Sequence[str], out: Path, setting: "Setting", real: Sequence["RealSetting"]) -> None:
    """Try these claims, in their order; `real` last."""
    from pipelines.evidence.claims import claim
    from pipelines.evidence.real import try_all
    from pipelines.evidence.trial import try_claim

    for name in names:
        if name != _REAL:
            begun = time.monotonic()
            _say_found(try_claim(claim(name), out, setting), begun)
    if _REAL in names and real:
        begun = time.monotonic()
        _say_found(try_all(out, real), begun)
    elif _REAL in names:
        say(f"{_REAL} is left out: it needs --model and --data")


def _say_found(text: str, begun: float) -> None:
    """Print what a claim came to, and how long it took."""
    say()
    for line in text.splitlines():
        say(line)
    say()
    say(f"in {(time.monotonic() - begun) / 60:.0f} min")


if __name__ == "__main__":
    main(prog_name="python -m pipelines.evidence")
