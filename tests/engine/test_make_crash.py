"""A run that is killed again and again, or on its way back, ends in the bytes of one that was not.

Each write alone is tried in tests/reliability/test_disk.py."""

import json
import shutil

import pytest

from engine.commands.precompute import precompute
from schemas.recipe import load
from schemas.store import LocalStore
from tests.conftest import RECIPE, preferences, settings, tree
from tests.faulty import WAYS, Fault, FaultyStore, Killed


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, model_path):
    """A few rows in two shards: every kind of write, quickly."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preferences(3, 6)))
    values = settings(prompts__source=path, model__name=model_path, prompts__shards=2)
    return load(RECIPE, [word for word in values if word != "--set"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, recipe):
    """A run that nothing happened to, and the writes that it took."""
    fault = Fault()
    path = tmp_path_factory.mktemp("whole") / "run"
    precompute(FaultyStore(LocalStore(path), fault), recipe, 1)
    return path, fault.writes


def test_the_writes_are_all_that_a_run_does(whole):
    """Each file of the run was written through the store."""
    path, writes = whole
    for name in tree(path):
        *_, folder, file = ["run", *name.split("/")]
        assert any(write.endswith(f" {file} in {folder}") for write in writes), name
    assert "put folder prompts" in " ".join(writes), "the scan"


@pytest.mark.parametrize("way", WAYS)
def test_killed_again_and_again_it_ends_in_the_same_bytes(way, whole, recipe, tmp_path, capsys):
    """Each run is killed at its 22nd write (half are the plan's and its job's), until one gets through."""
    path, writes = whole
    run = tmp_path / "run"
    for _ in range(len(writes)):
        try:
            precompute(FaultyStore(LocalStore(run), Fault(22, way)), recipe, 1)
        except Killed:
            continue
        break
    else:
        pytest.fail("it never got through")
    assert tree(run) == tree(path)


@pytest.mark.long
def test_a_lost_shard_that_is_killed_on_its_way_back_ends_in_the_same_bytes(whole, recipe, tmp_path, capsys):
    path, _ = whole
    fault = Fault()
    for number in range(1, 100):
        run = tmp_path / str(number)
        shutil.copytree(path, run)
        next(run.glob("logprobs-*/00001.json")).unlink()
        fault = Fault(number, "half")
        try:
            precompute(FaultyStore(LocalStore(run), fault), recipe, 1)
        except Killed:
            precompute(run, recipe, 1)
        assert tree(run) == tree(path)
        shutil.rmtree(run)
        if len(fault.writes) < number:
            break
    assert len(fault.writes) > 8
