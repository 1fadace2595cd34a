"""A small training run for trials: a dozen pairs, every kind of write, in a second."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.commands.precompute import precompute
from schemas.recipe import Recipe, load
from schemas.store import LocalStore
from tests.conftest import RECIPE, preferences, settings, tree
from tests.faulty import Fault, FaultyStore
from trainer.train import train

SMALL = {
    "train__optimizer": "adamw",
    "train__batch_size": 4,
    "train__learning_rate": 3e-3,
    "train__max_steps": 3,
    "train__save_every": 1,
    "train__keep": 2,
    "train__eval_every": 2,
}


class Trained:
    """A run that nothing happened to, and copies of it and of its cache to do something to."""

    def __init__(self, folder: Path, recipe: Recipe):
        self.recipe = recipe
        self.cache = folder / "cache"
        self.path = folder / "whole"
        precompute(self.cache, recipe, 1)
        shutil.copytree(self.cache, self.path)
        fault = Fault()
        train(FaultyStore(LocalStore(self.path), fault), recipe)
        self.writes = fault.writes
        self.name = next(self.path.glob("train-*")).name
        self.want = tree(self.path)

    def copy(self, to: Path) -> Path:
        """The train folder in a copy of the run."""
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.path, to)
        return to / self.name

    def again(self, run: Path) -> None:
        """The same command; it must end in the same bytes."""
        train(run, self.recipe)
        found = tree(run)
        assert found.keys() == self.want.keys()
        differing = [name for name in found if found[name] != self.want[name]]
        assert not differing, f"other bytes: {differing}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_path) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"), recipe_of(tmp_path_factory, model_path))


def recipe_of(tmp_path_factory, model_path, **more: object) -> Recipe:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preferences(3, 12)))
    values = {"prompts__source": path, "prompts__shards": 1, "model__name": model_path}
    words = settings(**values, **SMALL | more, pairs__test_share=0.2)
    return load(RECIPE, [word for word in words if word != "--set"])


class Refusal(Fault):
    """The disk refuses a write, after half of it, with an error that names no file."""

    def __init__(self, number: int, code: int):
        super().__init__(number)
        self._code = code

    def write(self, what: str, write: Callable[[], object], half: Callable[[], object]) -> object:
        self.writes.append(what)
        if len(self.writes) != self.number:
            return write()
        half()
        raise OSError(self._code, errno.errorcode[self._code])


def flipped(file: Path, place: int, bit: int) -> None:
    """Flip one bit of a file in place."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << bit
    file.write_bytes(data)
