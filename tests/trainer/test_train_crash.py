"""Training writes through the store alone: so it can be killed at each of its writes (tests/reliability)."""

import json
import shutil

import pytest

from engine.commands.precompute import precompute
from schemas.recipe import load
from schemas.store import LocalStore
from tests.conftest import RECIPE, preferences, settings
from tests.faulty import Fault, FaultyStore
from tests.reliability.training import SMALL
from trainer.train import train


def arguments(**values) -> list[str]:
    return [word for word in settings(**values) if word != "--set"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, model_path):
    """A dozen pairs: every kind of write, quickly."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preferences(3, 12)))
    values = {"prompts__source": path, "prompts__shards": 1, "model__name": model_path}
    return load(RECIPE, arguments(**values, **SMALL | {"train__keep": 1}, pairs__test_share=0.2))


@pytest.fixture(scope="module")
def cache(recipe, tmp_path_factory):
    """What the engine made; each test trains on a copy of it."""
    path = tmp_path_factory.mktemp("cache") / "run"
    precompute(path, recipe, 1)
    return path


@pytest.fixture(scope="module")
def whole(cache, recipe, tmp_path_factory):
    """A run that nothing happened to, and the writes that it took."""
    path = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(cache, path)
    fault = Fault()
    train(FaultyStore(LocalStore(path), fault), recipe)
    return path, fault.writes


def test_the_writes_are_all_that_a_run_does(whole):
    path, writes = whole
    folder = next(path.glob("train-*"))
    names = [child.name for child in folder.iterdir() if child.name != ".lock"]
    made = ["checkpoint-3", "facts.json", "made_with.json", "manifest.json", "metrics.jsonl", "recipe.toml"]
    assert sorted(names) == ["README.md", *made[:1], "clock.jsonl", *made[1:]]
    for name in names:
        assert any(f" {name}" in write or f"/{name}" in write for write in writes), name
    assert sum(write.startswith("remove") for write in writes) == 2, "checkpoints beyond `keep`"
