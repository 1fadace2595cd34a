"""What was damaged after it was written is noticed before it is used, and made again with the same bytes."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from schemas.disk import temporary_name
from schemas.errors import UserError
from schemas.identity import identify
from schemas.recipe import load_of_run
from schemas.sections import Model
from schemas.store import open_store
from tests.reliability.training import flipped, trained  # noqa: F401 (a fixture)
from trainer import checkpoint
from trainer.evaluate import evaluate, folder_of
from trainer.train import train

LAST = "checkpoint-3"


def files_of(folder):
    return sorted(path for path in (folder / LAST).rglob("*") if path.is_file())


def damages(folder, trials_each, seed):
    """Ways to damage a file: (words, function of a file)."""
    draw = random.Random(seed)
    for file in files_of(folder):
        size = file.stat().st_size
        for _ in range(trials_each):
            place, bit = draw.randrange(size), draw.randrange(8)
            yield (
                file.name,
                f"bit {bit} of byte {place}",
                lambda path, at=place, of=bit: flipped(path, at, of),
            )
        length = draw.randrange(size)
        yield file.name, f"cut at {length}", lambda path, at=length: os.truncate(path, at)
        yield file.name, "gone", lambda path: path.unlink()


def try_damages(trained, trials, tmp_path, capsys, trials_each, seed):  # noqa: F811
    with trials("a file of a checkpoint flipped, cut off or gone") as trial:
        for name, what, do in damages(trained.path / trained.name, trials_each, seed):
            with trial(f"{name}: {what}"):
                folder = trained.copy(tmp_path / "run")
                do(folder / LAST / name)
                capsys.readouterr()
                trained.again(tmp_path / "run")
                said = capsys.readouterr().out
                assert f"{LAST} is damaged: {name} is" in said
                assert "trained again from step 2 on" in said


def test_damage_of_each_file_is_noticed(trained, trials, tmp_path, capsys):  # noqa: F811
    """The newest whole checkpoint is gone on from, the damaged one is named, the end is the same."""
    with trials("a file of a checkpoint flipped, cut off or gone") as trial:
        folder = trained.path / trained.name
        for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
            file = folder / LAST / name
            with trial(name):
                copy = trained.copy(tmp_path / "run")
                flipped(copy / LAST / file.name, file.stat().st_size // 2, 0)
                capsys.readouterr()
                trained.again(tmp_path / "run")
                said = capsys.readouterr().out
                assert f"{LAST} is damaged: {file.name} is not as it was written" in said
                assert "trained again from step 2 on" in said


@pytest.mark.long
def test_any_damage_of_any_file_is_noticed(trained, trials, tmp_path, capsys):  # noqa: F811
    """Flips at random places of every file, cuts, and files that are gone."""
    each = -(-200 // len(files_of(trained.path / trained.name)))
    try_damages(trained, trials, tmp_path, capsys, each, seed=14)


def test_an_unfinished_run_goes_on_from_its_newest_whole_checkpoint(trained, trials, tmp_path, capsys):  # noqa: F811
    """Also where none is whole: then from the start, and it says so."""
    with trials("checkpoints of an unfinished run damaged") as trial:
        for damaged in ([3], [2, 3]):
            with trial(damaged):
                folder = trained.copy(tmp_path / "run")
                (folder / "manifest.json").unlink()
                for step in damaged:
                    flipped(folder / f"checkpoint-{step}" / "model.safetensors", -7, 2)
                capsys.readouterr()
                trained.again(tmp_path / "run")
                said = capsys.readouterr().out
                assert all(f"checkpoint-{step} is damaged: model.safetensors" in said for step in damaged)
                where = "from step 2 on" if damaged == [3] else "from the start"
                assert said.count(f"trained again {where}") == len(damaged)


def test_what_was_put_into_a_checkpoint_is_noticed(trained, trials, tmp_path, capsys):  # noqa: F811
    """Weights and adapters that a loader would read; a user's own notes are left alone."""
    with trials("a file put into a checkpoint") as trial:
        for name in ("adapter_config.json", "model.safetensors.index.json", "more.safetensors"):
            with trial(name):
                folder = trained.copy(tmp_path / "run")
                (folder / LAST / name).write_text("{}")
                capsys.readouterr()
                trained.again(tmp_path / "run")
                assert f"{name} was put into it later" in capsys.readouterr().out
        with trial("notes.md"):
            folder = trained.copy(tmp_path / "run")
            (folder / LAST / "notes.md").write_text("good")
            train(tmp_path / "run", trained.recipe)
            assert "finished already" in capsys.readouterr().out and (folder / LAST / "notes.md").exists()


def test_a_damaged_checkpoint_is_not_measured_and_is_no_model(trained, trials, tmp_path):  # noqa: F811
    """`trainer eval` and whatever names a model refuse it; what the refusal says to do works."""
    run = tmp_path / "run"
    with trials("a damaged checkpoint measured or used as a model") as trial:
        with trial("eval, its last checkpoint"):
            folder = trained.copy(run)
            flipped(folder / LAST / "model.safetensors", -7, 2)
            recipe = load_of_run(open_store(run), [])
            for policy in (folder, folder / LAST):
                with pytest.raises(
                    UserError, match=r"run the same `trainer run` again, which makes it again"
                ):
                    evaluate(open_store(run), recipe_with_train(trained, recipe), folder_of(policy))
            trained.again(run)
            assert evaluate(open_store(run), trained.recipe, folder_of(folder))["pairs"] > 0
        with trial("eval, an older checkpoint"):
            folder = trained.copy(run)
            flipped(folder / "checkpoint-2" / "model.safetensors", -7, 2)
            with pytest.raises(UserError, match=r"measure another one \(checkpoint-3\), or .*--no-resume"):
                evaluate(open_store(run), trained.recipe, folder / "checkpoint-2")
            assert evaluate(open_store(run), trained.recipe, folder / LAST)["pairs"] > 0
            train(run, trained.recipe, resume=False)
            trained.again(run)
            assert evaluate(open_store(run), trained.recipe, folder / "checkpoint-2")["pairs"] > 0
        with trial("as the model of a run"):
            folder = trained.copy(run)
            flipped(folder / LAST / "tokenizer.json", 100, 0)
            with pytest.raises(
                UserError, match=r"is damaged: tokenizer.json is not as.*delete its state.json"
            ):
                identify(Model(name=str(folder / LAST)))
            shutil.copytree(folder / LAST, tmp_path / "mine")
            (tmp_path / "mine" / "state.json").unlink()
            identify(Model(name=str(tmp_path / "mine")))
            trained.again(run)
            identify(Model(name=str(folder / LAST)))
        with trial("a copy without the optimizer"):
            folder = trained.copy(run)
            (folder / LAST / "optimizer.safetensors").unlink()
            identify(Model(name=str(folder / LAST)))


def recipe_with_train(trained, recipe):  # noqa: F811
    return recipe.with_sections(train=trained.recipe.section("train"))


def test_what_a_finished_run_says_of_itself_is_looked_at(trained, trials, tmp_path, capsys):  # noqa: F811
    """A damaged manifest or facts file is written again; a damaged record is named, not passed on."""
    run = tmp_path / "run"
    with trials("a train folder's own files damaged") as trial:
        for name in ("manifest.json", "facts.json"):
            size = (trained.path / trained.name / name).stat().st_size
            for place in (size // 2, size - 3):
                with trial(f"{name} byte {place}"):
                    flipped(trained.copy(run) / name, place, 1)
                    trained.again(run)
        with trial("metrics.jsonl"):
            folder = trained.copy(run)
            flipped(folder / "metrics.jsonl", 40, 0)
            with pytest.raises(UserError, match=r"metrics.jsonl is not as it was written.*--no-resume"):
                train(run, trained.recipe)
            train(run, trained.recipe, resume=False)
            trained.again(run)
        with trial("metrics.jsonl, taken as it is"):
            folder = trained.copy(run)
            with open(folder / "metrics.jsonl", "a") as file:
                file.write('{"step": 3, "eval_loss": 0.5}\n')
            with pytest.raises(UserError, match=r"delete manifest.json beside it to take it as it is"):
                train(run, trained.recipe)
            (folder / "manifest.json").unlink()
            train(run, trained.recipe)
            assert json.loads((folder / "manifest.json").read_bytes())["metrics"]["eval_loss"] == 0.5


def test_no_checkpoint_is_left_beyond_keep(trained, trials, tmp_path, capsys):  # noqa: F811
    """Also where the run was finished, and was killed before it removed what it does not keep."""
    run = tmp_path / "run"
    with trials("a checkpoint too many after a kill") as trial:
        with trial("before the removal"):
            folder = trained.copy(run)
            shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-1")
            trained.again(run)
        with trial("in the removal"):
            folder = trained.copy(run)
            shutil.copytree(folder / "checkpoint-2", folder / temporary_name())
            trained.again(run)
        assert capsys.readouterr().out.count("finished already") == 2


def test_a_persons_own_files_among_checkpoints_stay(trained, trials, tmp_path, capsys):  # noqa: F811
    """Folders with the name of a checkpoint, and notes in a checkpoint that is made again or removed."""
    run = tmp_path / "run"
    source = Path(load_of_run(open_store(trained.path), []).section("model").name)
    with trials("a person's own files among the checkpoints") as trial:
        with trial("made again from the start"):
            folder = trained.copy(run)
            for step in (1, 3, 99):
                (folder / f"checkpoint-{step}").mkdir(exist_ok=True)
                (folder / f"checkpoint-{step}" / "notes.txt").write_text(f"mine {step}")
            train(run, trained.recipe, resume=False)
            said = capsys.readouterr().out
            assert said.count("checkpoint-99 is no checkpoint of this run; what is in it stays") == 1
            for step in (1, 3, 99):
                assert (folder / f"checkpoint-{step}" / "notes.txt").read_text() == f"mine {step}"
            (folder / LAST / "notes.txt").unlink()
            shutil.rmtree(folder / "checkpoint-1")
            shutil.rmtree(folder / "checkpoint-99")
            trained.again(run)
            assert "finished already" in capsys.readouterr().out
        with trial("beyond keep"):
            folder = trained.copy(run)
            (folder / "checkpoint-2" / "notes.txt").write_text("mine")
            (folder / "checkpoint-99").mkdir()
            checkpoint.prune(open_store(folder), 1, 3, source)
            assert "what was put into it stays: notes.txt" in capsys.readouterr().out
            assert [path.name for path in (folder / "checkpoint-2").iterdir()] == ["notes.txt"]
            assert checkpoint.damage(open_store(folder), 3, None, afresh=True) is None
            assert folder_of(folder) == folder / LAST
        with trial("where the disk refuses the checkpoint"):
            place = folder / "checkpoint-2"
            with pytest.raises(OSError, match="full"), checkpoint._put_aside(place) as own:
                assert not place.exists() and (own / "notes.txt").exists()
                raise OSError("the disk is full")
            assert (place / "notes.txt").read_text() == "mine" and not own.exists()
        with trial("a file with the name of a checkpoint"):
            folder = trained.copy(run)
            shutil.rmtree(folder / LAST)
            (folder / LAST).write_text("mine")
            trained_again = f"{LAST} was no checkpoint: what was in its place is"
            train(run, trained.recipe)
            assert trained_again in capsys.readouterr().out
            assert (folder / f"{LAST}.own-1").read_text() == "mine"
