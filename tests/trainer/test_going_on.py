"""What a run goes on from, and whom an error blames: a checkpoint, a rank, or the machine."""

import shutil

import pytest
import torch

from schemas.errors import UserError
from schemas.manifest import FACTS, json_bytes
from schemas.store import open_store
from tests.conftest import tree
from tests.trainer.caches import recipe_of
from trainer import data, dist, finish, job, samples, state
from trainer.starting import load_state
from trainer.step import check_gradient
from trainer.train import train

KEPT = {"train__max_steps": 4, "train__save_every": 2, "train__keep": 0}


def as_if_by_autocast(planned) -> job.Job:
    """Put a finished run where the version whose half precision was autocast would have put it."""
    earlier = job.as_of_autocast(planned)
    planned.folder.local_path().rename(earlier.folder.local_path())
    earlier.folder.put(FACTS, json_bytes(earlier.facts))
    finish.write_manifest(earlier, "0" * 64)
    return earlier


def test_a_run_that_autocast_finished_stays_finished_and_one_that_it_began_is_begun_anew(
    caches, tmp_path, capsys
):
    run, values = caches.copy("test_bfloat16", "bfloat16", tmp_path / "run")
    recipe = recipe_of(values)
    last = train(run, recipe)
    planned = job.plan(open_store(run), recipe)
    assert planned.last == last
    earlier = as_if_by_autocast(planned)
    capsys.readouterr()
    assert train(run, recipe) == earlier.last and not last.exists()
    assert f"{earlier.folder}: finished already, 2 steps" in capsys.readouterr().out
    earlier.folder.remove("manifest.json")
    before = tree(earlier.folder.local_path())
    assert train(run, recipe) == last
    assert tree(earlier.folder.local_path()) == before


def test_only_half_precision_has_another_arithmetic_than_it_had(caches, tmp_path):
    run, values = caches.copy("test", "float32", tmp_path / "run")
    planned = job.plan(open_store(run), recipe_of(values))
    assert planned.facts.keys() == {"pairs", "policy", "seed", "train", "loss"}
    assert job.as_of_autocast(planned) is None


def test_a_float32_checkpoint_of_a_bfloat16_model_is_gone_on_with_to_the_same_weights(caches, tmp_path):
    """Before there was train.save_dtype, every checkpoint was in float32: nothing of it is rounded."""
    run, values = caches.copy("test_bfloat16", "bfloat16", tmp_path / "run")
    last = train(run, recipe_of(values, **KEPT))
    whole = tree(last)
    other = train(run, recipe_of(values, **KEPT, train__save_dtype="float32"))
    first = last.parent / "checkpoint-2"
    assert tree(first).keys() == tree(other.parent / "checkpoint-2").keys()
    for folder in (last, first):
        shutil.rmtree(folder)
    (last.parent / "manifest.json").unlink()
    shutil.copytree(other.parent / "checkpoint-2", first)
    assert train(run, recipe_of(values, **KEPT)) == last
    assert tree(last) == whole


@pytest.fixture
def begun(caches, tmp_path):
    """A job, and the ranks that go on with it from step 2."""
    run, values = caches.copy("test", "float32", tmp_path / "run")
    recipe = recipe_of(values)
    train(run, recipe)
    return job.plan(open_store(run), recipe), dist.Ranks(0, 1, torch.device("cpu"))


def test_only_a_damaged_file_is_to_be_deleted(begun, monkeypatch):
    planned, ranks = begun
    optimizer = planned.last / "optimizer.safetensors"
    content = optimizer.read_bytes()
    optimizer.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"optimizer.safetensors does not load .*delete .*checkpoint-2"):
        load_state(planned, 2, ranks)
    optimizer.write_bytes(content)
    of_machine = (
        torch.OutOfMemoryError("no more"),
        dist.RankLost("another rank has ended"),
        RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer"),
        OSError(5, "Input/output error"),
    )
    for error in of_machine:

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(state, "restore_state", fail)
        with pytest.raises(type(error)) as caught:
            load_state(planned, 2, ranks)
        assert caught.value is error


def test_moments_of_another_model_are_refused_as_damage(begun, monkeypatch):
    planned, ranks = begun
    read = state.trained
    for change, said in ((lambda all_: all_[:3], "weight 3 of 3"), (lambda all_: all_[::-1], "is .*, not ")):
        monkeypatch.setattr(state, "trained", lambda optimizer, change=change: change(read(optimizer)))
        with pytest.raises(UserError, match=rf"does not load \(.*{said}.*delete"):
            load_state(planned, 2, ranks)


def test_what_one_rank_alone_can_raise_is_said_by_that_rank(caches, tmp_path, monkeypatch):
    """A shard that this rank's disk has lost is no error of all; a gradient that was added up is."""
    run, values = caches.copy("test", "float32", tmp_path / "run")

    def lost(*_):
        raise UserError("this rank's shard is gone")

    monkeypatch.setattr(data, "held_out", lost)
    with pytest.raises(UserError, match="this rank's shard is gone") as caught:
        train(run, recipe_of(values))
    assert not caught.value.shared
    with pytest.raises(UserError, match="gradient of step 3 is not finite") as caught:
        check_gradient(torch.tensor(float("nan")), 3, [])
    assert caught.value.shared


def generations(run, recipe) -> int:
    """How often this rank generates answers while it trains."""
    calls = []
    generate = samples.generate_greedily
    try:
        samples.generate_greedily = lambda *args: calls.append(1) or generate(*args)
        train(run, recipe)
    finally:
        samples.generate_greedily = generate
    return len(calls)


def test_ranks_generate_only_where_their_passes_take_all_of_them(caches, two_ranks, tmp_path):
    answers = []
    for parallel, expected in (("ddp", [2, 0]), ("fsdp", [2, 2])):
        run, values = caches.copy("test", "float32", tmp_path / parallel)
        keys = {"train__eval_samples": 2, "train__eval_sample_tokens": 5, "train__parallel": parallel}
        assert two_ranks.run(generations, run, recipe_of(values, **keys)) == expected
        answers.append(next(run.glob("train-*/samples.jsonl")).read_bytes())
    assert answers[0] == answers[1]
