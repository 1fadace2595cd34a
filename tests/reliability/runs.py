"""Small runs to spoil: made once, copied for each trial, and made whole again by the same command."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import engine.plan
from engine.commands.precompute import precompute
from engine.views import views
from schemas.errors import UserError
from schemas.recipe import Recipe, load_of_run
from schemas.store import Store, open_store
from tests.conftest import tree


@dataclass(frozen=True)
class Small:
    """A run that nothing happened to, and the recipe that makes it."""

    path: Path
    recipe: Recipe

    def copy(self, to: Path) -> Path:
        """A copy of the run to spoil."""
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.path, to)
        return to

    def again(self, run: "Path | Store") -> None:
        """The command that made it, once more."""
        precompute(run, self.recipe, 1)

    def is_whole(self, run: Path) -> None:
        """Nothing but the bytes of a run that nothing happened to."""
        found = tree(run)
        want = tree(self.path)
        assert found.keys() == want.keys(), found.keys() ^ want.keys()
        different = [name for name in want if found[name] != want[name]]
        assert not different, different


def plan_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan each recipe once for all trials: a plan looks at input and models, which no trial changes."""
    real = engine.plan.plan
    planned: dict[int, engine.plan.Run] = {}

    def plan(where: object, recipe: Recipe, workers: int = 1) -> engine.plan.Run:
        if id(recipe) not in planned:
            planned[id(recipe)] = real(where, recipe, workers)
        return replace(planned[id(recipe)], store=open_store(where))

    monkeypatch.setattr(engine.plan, "plan", plan)
    monkeypatch.setattr(engine.plan, "check_unchanged", lambda run: None)


def said_by(run: Path) -> dict[str, str]:
    """What a reader is told by a run: each table's rows and the recipe, as digests."""
    store = open_store(run)
    said = {"recipe": repr(load_of_run(store))}
    for name, rows in views(store).items():
        ordered = sorted(map(repr, rows.to_table().to_pylist()))
        said[name] = hashlib.sha256("\n".join(ordered).encode()).hexdigest()
    return said


def refuses_or_says(run: Path, want: dict[str, str]) -> str:
    """Read a run as `engine sql` does: what it refused with, empty where it says the same as before."""
    try:
        said = said_by(run)
    except UserError as error:
        return str(error)
    assert said == want, "read without a word, and not what was written"
    return ""


def flips(data: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many different bits of the bytes, each turned alone."""
    import random

    bits = 8 * len(data)
    for bit in random.Random(seed).sample(range(bits), min(count, bits)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", bytes(flipped)


def cuts(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The bytes cut off: all, almost all, at the half, at the end; and one byte too many."""
    for length in (0, 1, len(data) // 2, len(data) - 1):
        yield f"cut to {length}", data[:length]
    yield "one byte more", data + b"\0"
