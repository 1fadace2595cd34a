"""The best checkpoint: decided by the record, kept, named, and the same after a kill."""

import json
import shutil

import pytest

from schemas.errors import UserError
from schemas.sections import Train
from schemas.store import LocalStore, open_store
from tests.conftest import command, tree
from tests.faulty import FaultyStore, Killed, every_fault
from tests.reliability.training import flipped
from tests.trainer.watching import points_of, watched, with_train
from trainer import best
from trainer.pairs import open_pairs
from trainer.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_path):
    return watched(tmp_path_factory, model_path)


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_the_best_is_kept_beside_the_newest(trained):
    folder = trained.path / trained.name
    losses = points_of(folder)["eval_loss"]
    step = max((step for step in losses if step > 0), key=losses.get)
    assert 0 < step < 4, "it would be kept anyway"
    assert step % 2 == 1, "save_every would have saved it anyway"
    assert checkpoints(folder) == [f"checkpoint-{step}", "checkpoint-5"]
    named = json.loads((folder / "best.json").read_text())
    assert named["checkpoint"] == f"checkpoint-{step}" and named["value"] == losses[step]
    assert named["metric"] == "eval_loss" and named["greater_is_better"] is True


def test_killed_at_some_writes_it_ends_in_the_same_bytes(trained, tmp_path):
    """samples.jsonl and best.json among them: each write of these, and what comes after it."""
    watched_writes = [n for n, what in enumerate(trained.writes, 1) if "best" in what or "samples" in what]
    assert len(watched_writes) >= 7
    faults = [fault for fault in every_fault(len(trained.writes)) if fault.number in watched_writes]
    try_kills(trained, tmp_path, faults[::4])


@pytest.mark.long
def test_killed_at_every_write_it_ends_in_the_same_bytes(trained, tmp_path):
    try_kills(trained, tmp_path, every_fault(len(trained.writes)))


def try_kills(trained, tmp_path, faults):
    run = tmp_path / "run"
    for fault in faults:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(trained.cache, run)
        with pytest.raises(Killed):
            train(FaultyStore(LocalStore(run), fault), trained.recipe)
        trained.again(run)


def test_equal_values_keep_the_first_and_the_start_does_not_count():
    config = Train(metric_for_best_model="rewards/accuracies")
    lines = [
        {"step": step, "eval_rewards/accuracies": value} for step, value in enumerate((1, 0.5, 0.75, 0.75))
    ]
    found = best.Best.of(config, lines)
    assert (found.step, found.value) == (2, 0.75)
    assert not found.take(4, {"eval_loss": 0.1})


@pytest.mark.parametrize(
    ("metric", "setting", "greater"),
    [
        ("eval_loss", "auto", False),
        ("loss", "auto", False),
        ("eval_rewards/margins", "auto", True),
        ("rewards/accuracies", "auto", True),
        ("eval_rewards/margins", "false", False),
        ("loss", "true", True),
    ],
)
def test_what_is_better_is_said_by_the_name_or_by_the_recipe(metric, setting, greater):
    config = Train(metric_for_best_model=metric, greater_is_better=setting)
    assert best.greater_is_better(config) is greater
    transformers_rule = not metric.endswith("loss")
    assert setting != "auto" or greater == transformers_rule


def test_a_metric_that_does_not_exist_is_refused_with_all_that_do(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.starting.open_policy", lambda *_: pytest.fail("the model was loaded"))
    run = tmp_path / "run"
    shutil.copytree(trained.cache, run)
    said = r"eval_rewards/margin\" is no metric .*did you mean 'eval_rewards/margins'\?.* eval_loss, "
    with pytest.raises(UserError, match=said):
        train(run, with_train(trained.recipe, metric_for_best_model="eval_rewards/margin"))
    pairs = open_pairs(run)
    for name in ("eval_loss", "eval_rewards/margins", "eval_logps/rejected", "rewards/chosen"):
        best.check(Train(metric_for_best_model=name), pairs)


def test_a_finished_run_keeps_it_and_another_metric_chooses_among_what_is_there(trained, tmp_path):
    folder = trained.copy(tmp_path / "run")
    before = tree(folder)
    train(tmp_path / "run", with_train(trained.recipe, metric_for_best_model=""))
    assert tree(folder) == before
    train(tmp_path / "run", with_train(trained.recipe, greater_is_better="auto"))
    assert best.read(open_store(folder))["checkpoint"] == "checkpoint-5"
    assert checkpoints(folder) == ["checkpoint-5"]


def test_a_run_that_goes_on_without_the_metric_drops_it(trained, tmp_path):
    folder = trained.copy(tmp_path / "run")
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder / "checkpoint-5")
    train(tmp_path / "run", with_train(trained.recipe, metric_for_best_model=""))
    assert checkpoints(folder) == ["checkpoint-5"] and not (folder / "best.json").exists()


def test_a_damaged_one_is_named(trained, tmp_path, capsys):
    """In a finished run it stays, in one that goes on it is removed; training goes on from the newest."""
    folder = trained.copy(tmp_path / "run")
    name = checkpoints(folder)[0]
    flipped(folder / name / "model.safetensors", 900, 3)
    train(tmp_path / "run", trained.recipe)
    said = capsys.readouterr().out
    assert f"{name}, the best checkpoint, is damaged: model.safetensors is not as it was written" in said
    assert "finished already" in said and "--no-resume" in said
    train(tmp_path / "run", trained.recipe, resume=False)
    trained.again(tmp_path / "run")


def test_a_damaged_one_of_a_run_that_goes_on_is_removed(trained, tmp_path, capsys):
    folder = trained.copy(tmp_path / "run")
    name = checkpoints(folder)[0]
    flipped(folder / name / "model.safetensors", 900, 3)
    (folder / "manifest.json").unlink()  # it was killed right before its end
    train(tmp_path / "run", trained.recipe)
    assert f"{name}, the best checkpoint, is damaged" in capsys.readouterr().out
    assert checkpoints(folder) == ["checkpoint-5"]
    assert best.read(open_store(folder))["checkpoint"] == "checkpoint-5"


def test_best_json_that_was_changed_names_nothing(trained, tmp_path):
    folder = trained.copy(tmp_path / "run")
    text = (folder / "best.json").read_text()
    step = best.read(open_store(folder))["step"]
    (folder / "best.json").write_text(text.replace(f"checkpoint-{step}", "checkpoint-5"))
    assert best.read(open_store(folder)) is None and best.sentence(open_store(folder)) is None
    trained.again(tmp_path / "run")


@pytest.mark.long
def test_eval_says_which_it_is_and_measures_it_by_its_path(trained):
    folder = trained.path / trained.name
    said = command("trainer", "eval", trained.path, folder).stdout
    name = checkpoints(folder)[0]
    assert f"best by eval_loss ({points_of(folder)['eval_loss'][int(name[11:])]:.4f})" in said
    path = next(word for word in said.split() if word.endswith(name))
    measured = json.loads(command("trainer", "eval", trained.path, path, "--format", "json").stdout)
    assert measured["loss"] == pytest.approx(best.read(open_store(folder))["value"], abs=1e-6)
