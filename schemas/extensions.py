"""What a package above hands over to those below it: prompts and SQL, and the check of a loss's options.

Engine and trainer take prompts and SQL by their bare names ("best_vs_worst"), but do not know where they are;
the recipe reader wants the chosen loss's options checked, but does not know the losses. A package that brings
such things announces itself under the entry point group `prefmill` (pyproject.toml: `pipelines`) and hands
them over when it is imported. So nothing here reaches into `pipelines`, and other packages can bring prompts
and SQL as well. A package that is not installed can hand over by being imported first.
"""

import functools
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from schemas.errors import UserError, did_you_mean
from schemas.plain_files import MOST_TEXT

_GROUP = "prefmill"

LossCheck = Callable[[Any], object]  # of the section [train]; raises UserError

_roots: dict[str, Path] = {}
_loss_checks: dict[str, LossCheck] = {}


def hand_over(package: str, root: Path, check_loss: LossCheck | None = None) -> None:
    """Add a package's folder with `prompts/`, `sql/`, `recipes/` and `docs/`, as far as it has them; the
    package that knows the losses adds a check."""
    _roots[package] = root
    if check_loss is not None:
        _loss_checks[package] = check_loss


@functools.cache
def _import_announced() -> None:
    """Import the packages that announce themselves; each hands over what it has."""
    for entry_point in entry_points(group=_GROUP):
        entry_point.load()


def packages() -> list[str]:
    """The packages that handed something over: a worker process imports them first."""
    _import_announced()
    return list(_roots)


def check_loss(train: object) -> None:
    """Raise UserError where the section [train] names a loss or an option that does not exist."""
    _import_announced()
    for check in _loss_checks.values():
        check(train)


def _shipped(folder: str, name: str, suffix: str) -> Path | None:
    """The file that ships under a bare name, if there is one."""
    _import_announced()
    for root in _roots.values():
        path = root / folder / f"{name}{suffix}"
        if path.is_file():
            return path
    return None


def ships(folder: str, name: str, suffix: str) -> bool:
    """True if a bare name means a file that ships, whatever else of that name is in the current folder."""
    return _shipped(folder, name, suffix) is not None


def folders() -> list[Path]:
    """The folders of the packages that handed something over."""
    _import_announced()
    return [root.resolve() for root in _roots.values()]


def included(folder: str, name: str, suffix: str) -> Path:
    """A file named in a recipe: one that ships, by its bare name, or another by path. Raises UserError."""
    shipped = _shipped(folder, name, suffix)
    if shipped:
        return shipped
    path = Path(name).expanduser()
    if path.is_file():
        if path.stat().st_size > MOST_TEXT:
            raise UserError(
                f"{path} has more than {MOST_TEXT >> 20} MiB, and no prompt, template or SQL is so long: "
                "name another file"
            )
        return path
    if not _roots:
        raise UserError(
            f"no '{name}': no installed package hands over prompts and SQL; "
            "install prefmill again (pip install -e . in its folder), "
            "or start it as `python -m pipelines engine …`"
        )
    known = [path.stem for path in files(folder, suffix)]
    raise UserError(
        f"no '{name}' in pipelines/{folder} and no file of that path; {did_you_mean(name, known)}"
    )


def files(folder: str, suffix: str) -> list[Path]:
    """All files that ship in a folder, by name."""
    _import_announced()
    paths: list[Path] = []
    for root in _roots.values():
        paths += sorted((root / folder).glob(f"*{suffix}"))
    return paths
