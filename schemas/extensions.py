"""What the program that is started hands over to the packages below it: files that ship, and the losses'
check.

Engine and trainer take prompts and SQL by their bare names ("best_vs_worst"), but do not know where they lie;
the recipe reader wants the chosen loss's options checked, but does not know the losses. A package that brings
such things announces itself under the entry point group `prefmill` (pyproject.toml: `pipelines`) and hands
them over when it is imported. So nothing here reaches into `pipelines`, and other packages can bring files as
well.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from schemas.errors import UserError, did_you_mean
from schemas.sections import Train

_GROUP = "prefmill"


@dataclass(frozen=True)
class _Extension:
    """What a package hands over."""

    root: Path
    check_loss: Callable[[Train], object]


_extensions: dict[str, _Extension] = {}


def hand_over(package: str, root: Path, check_loss: Callable[[Train], object]) -> None:
    """Add a package's folder with `prompts/` and `sql/`, and its check of [train], which raises UserError."""
    _extensions[package] = _Extension(root, check_loss)


def packages() -> list[str]:
    """The packages that handed something over: a worker process imports them first."""
    _import_announced()
    return list(_extensions)


@functools.cache
def _import_announced() -> None:
    """Import the packages that announce themselves; each hands over what it has."""
    for entry_point in entry_points(group=_GROUP):
        entry_point.load()


def check_loss(train: Train) -> None:
    """Raise UserError where [train] names a loss or an option that no package knows."""
    _import_announced()
    for extension in _extensions.values():
        extension.check_loss(train)


def roots() -> list[Path]:
    """The folders handed over."""
    _import_announced()
    return [extension.root for extension in _extensions.values()]


def ships(folder: str, name: str, suffix: str) -> bool:
    """True if a bare name means a file that ships, whatever else of that name lies in the current folder."""
    return any((root / folder / f"{name}{suffix}").is_file() for root in roots())


def included(folder: str, name: str, suffix: str) -> Path:
    """A file named in a recipe: one that ships, by its bare name, or any other by its path. Raises
    UserError."""
    for path in (*(root / folder / f"{name}{suffix}" for root in roots()), Path(name).expanduser()):
        if path.is_file():
            return path
    known = [path.stem for path in files(folder, suffix)]
    raise UserError(
        f"no '{name}' in pipelines/{folder} and no file of that path; {did_you_mean(name, known)}"
    )


def files(folder: str, suffix: str) -> list[Path]:
    """All files that ship in a folder, by name."""
    paths: list[Path] = []
    for root in roots():
        paths += sorted((root / folder).glob(f"*{suffix}"))
    return paths
