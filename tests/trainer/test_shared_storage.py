"""Ranks that see different things: other settings, a folder of their own, a listing that is behind."""

import os
import shutil
import socket
import time
from pathlib import Path

import pytest

from schemas import digest
from schemas.recipe import Recipe
from tests.faulty import Fault
from tests.reliability.ranks import on_ranks
from tests.reliability.training import Trained, recipe_of
from trainer import dist, shared_storage
from trainer.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_path):
    recipe = recipe_of(tmp_path_factory, model_path, train__max_steps=2, model__device="cpu")
    return Trained(tmp_path_factory.mktemp("storage"), recipe)


def with_keys(recipe, **keys):
    section = recipe.section("train")
    return Recipe(recipe.sections | {"train": type(section)(**vars(section) | keys)}, recipe.seed)


@pytest.fixture
def begun(trained, tmp_path):
    """A run of four steps that is at its third, its recipe, and a copy that has none of its checkpoints."""
    recipe = with_keys(trained.recipe, epochs=4, max_steps=4)
    run = tmp_path / "run"
    shutil.copytree(trained.cache, run)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(trained.cache, elsewhere)
    train(run, recipe)
    folder = next(run.glob("train-*"))
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder / "checkpoint-4")
    return run, recipe, elsewhere, folder


def test_ranks_that_plan_different_runs_are_told_apart_once(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.cache, run)
    other = with_keys(trained.recipe, learning_rate=7e-4)
    statuses, said = on_ranks(run, trained.recipe, [Fault(), Fault()], apart={1: (run, other)})
    assert statuses == [1, 1], said
    assert f"error: rank 0 is to train {trained.name} and rank 1 train-" in said[0] and said[1] == ""
    assert not list(run.glob("train-*"))


def test_an_error_of_one_machine_alone_is_that_of_all(trained, tmp_path):
    """The second rank has no run folder at all; the first one would wait for it."""
    run = tmp_path / "run"
    shutil.copytree(trained.cache, run)
    nowhere = (tmp_path / "nowhere", trained.recipe)
    statuses, said = on_ranks(run, trained.recipe, [Fault(), Fault()], apart={1: nowhere})
    assert statuses == [1, 1], said
    named = f"error: rank 1 on {socket.gethostname()}: {tmp_path / 'nowhere'}"
    assert named in said[0] and said[1] == ""


@pytest.mark.long
def test_a_checkpoint_that_a_machine_does_not_see_is_waited_for(begun, monkeypatch):
    run, recipe, elsewhere, folder = begun
    apart = {1: (elsewhere, recipe)}
    monkeypatch.setattr(shared_storage, "_SECONDS", 2.0)
    statuses, said = on_ranks(run, recipe, [Fault(), Fault()], apart=apart)
    assert statuses == [1, 1], said
    assert "error: rank 1 on " in said[0] and f"does not see {folder}/checkpoint-3" in said[0]

    def appear(pids):
        time.sleep(1)
        shutil.copytree(folder / "checkpoint-3", elsewhere / folder.name / "checkpoint-3")

    monkeypatch.setattr(shared_storage, "_SECONDS", 40.0)
    statuses, said = on_ranks(run, recipe, [Fault(), Fault()], apart=apart, deed=appear)
    assert statuses == [0, 0] and "from step 3 on" in said[0], said


@pytest.mark.long
def test_one_rank_of_a_machine_reads_the_weights(trained, tmp_path, monkeypatch):
    """The other one finds the digest in memory."""
    weights = Path(trained.recipe.section("model").name) / "model.safetensors"
    while not digest._state_of(weights).is_settled():
        time.sleep(0.1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    reads = tmp_path / "reads"
    sha256_file = digest.sha256_file

    def counted(path):
        if path == weights.resolve():
            with reads.open("a") as file:
                file.write(f"{os.environ['RANK']}\n")
        return sha256_file(path)

    monkeypatch.setattr(digest, "sha256_file", counted)
    run = tmp_path / "run"
    shutil.copytree(trained.cache, run)
    statuses, said = on_ranks(run, trained.recipe, [Fault(), Fault()])
    assert statuses == [0, 0], said
    assert reads.read_text() == "0\n"


@pytest.mark.parametrize(("before", "after"), [("0", "3"), ("2", "3"), ("1", "1"), ("3", "3")])
def test_an_error_of_nccl_ends_the_process(before, after, monkeypatch):
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", before)
    dist.let_nccl_errors_end()
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == after
