"""Trackers hold what metrics.jsonl holds, after a kill too; one that fails ends nothing."""

import json
import shutil
import sys
import time

import pytest

from schemas.errors import UserError
from schemas.store import LocalStore
from tests.conftest import tree
from tests.faulty import Fault, FaultyStore, Killed
from tests.trainer.watching import once, points_of, wandb_points, watched, with_train
from trainer import tracking
from trainer.train import train

ALL = ("tensorboard", "wandb", "mlflow")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_path):
    return watched(tmp_path_factory, model_path)


@pytest.fixture(autouse=True)
def _own_trackers(monkeypatch, tmp_path):
    """Nobody's login, server or project."""
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_BASE_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # it remembers the environment


def copy_of_cache(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained.cache, run)
    return run


def test_all_hold_the_record_after_a_kill(trained, tmp_path, capfd):
    """Also where the first part of the run had one tracker less. Nothing else of the run differs."""
    for name in ALL:
        pytest.importorskip(name)
    run = copy_of_cache(trained, tmp_path)
    place = next(n for n, what in enumerate(trained.writes, 1) if "checkpoint-4" in what)
    tracked = with_train(trained.recipe, report_to=ALL)
    with pytest.raises(Killed):
        # After step 4 is in the record and before its checkpoint is there: steps 3 and 4 come twice.
        train(FaultyStore(LocalStore(run), Fault(place, "half")), tracked)
    train(run, tracked)

    folder = run / trained.name
    want = points_of(folder)
    assert set(want["loss"]) == {1, 2, 3, 4, 5} and set(want["eval_loss"]) == {0, 1, 2, 3, 4, 5}
    assert {name: once(points) for name, points in wandb_points(folder).items()} == want
    assert {name: once(points) for name, points in mlflow_points(folder).items()} == want
    board = {name: once(points) for name, points in board_points(folder).items()}
    assert board.keys() == want.keys()
    for name, points in want.items():
        assert board[name] == pytest.approx(points, rel=1e-6)  # TensorBoard holds float32

    theirs = ("tensorboard/", "wandb/", "mlruns/", "recipe.toml", "README.md")  # a card holds the recipe
    own = {name: data for name, data in tree(folder).items() if not name.startswith(theirs)}
    assert own == {
        name: data
        for name, data in tree(trained.path / trained.name).items()
        if name not in ("recipe.toml", "README.md")
    }
    assert "does not work" not in capfd.readouterr().out


def mlflow_points(folder):
    from mlflow.tracking import MlflowClient

    from trainer.trackers.mlflow import address

    client = MlflowClient(tracking_uri=address(folder))
    experiment = client.get_experiment_by_name("prefmill").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED" and run.info.run_name == folder.name
    assert run.data.params["train.learning_rate"] == "0.003" and run.data.params["steps"] == "5"
    answers = [file.path for file in client.list_artifacts(run.info.run_id, "eval_samples")]
    assert sorted(answers) == [f"eval_samples/step-{step}.jsonl" for step in range(6)]
    points = {}
    for name in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, name)
        points[name] = [(point.step, point.value) for point in history]
    return points


def board_points(folder):
    """As TensorBoard's own plugins read them: a curve is a row of tensors there, too."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(folder / "tensorboard"), tensor_size_guidance={"text": 0, "scalars": 0})
    events.Reload()
    texts = events.Tensors("eval_samples/1/text_summary")
    assert [text.step for text in texts] == [0, 1, 2, 3, 4, 5]
    points = {}
    for name in events.PluginTagToContent("scalars"):
        points[name] = [
            (event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(name)
        ]
    return points


def test_a_tracker_that_comes_later_gets_the_whole_record(trained, tmp_path):
    pytest.importorskip("tensorboard")
    pytest.importorskip("wandb")
    run = copy_of_cache(trained, tmp_path)
    place = next(n for n, what in enumerate(trained.writes, 1) if "checkpoint-4" in what)
    with pytest.raises(Killed):
        train(FaultyStore(LocalStore(run), Fault(place, "after")), trained.recipe)
    train(run, with_train(trained.recipe, report_to=("wandb", "tensorboard")))
    folder = run / trained.name
    want = points_of(folder)
    assert {name: once(points) for name, points in wandb_points(folder).items()} == want
    assert once(board_points(folder)["loss"]).keys() == want["loss"].keys()


def test_wandb_without_a_login_or_a_network_goes_on_offline(trained, tmp_path, monkeypatch, capfd):
    """It asks nothing, waits for a few seconds, says it once, and prints no key."""
    wandb = pytest.importorskip("wandb")
    key = "8b" * 20
    monkeypatch.setattr("trainer.trackers.wandb._PATIENCE", 1.0)
    monkeypatch.setattr(sys, "stdin", None)  # a question would fail
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    tracked = with_train(trained.recipe, report_to=("wandb",))
    for number, keys in enumerate(({}, {"WANDB_API_KEY": key})):
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        wandb.teardown()  # it remembers the environment
        run = copy_of_cache(trained, tmp_path / str(number))
        begun = time.monotonic()
        train(run, tracked)
        assert time.monotonic() - begun < 60
        said = capfd.readouterr()
        assert said.out.count("W&B is not reached") == 1 and "wandb sync" in said.out
        assert key not in said.out + said.err
        folder = run / trained.name
        assert {name: once(points) for name, points in wandb_points(folder).items()} == points_of(folder)
        assert len(list((folder / "wandb").glob("*run-*"))) == 1


def test_a_tracker_that_fails_is_said_once_and_ends_nothing(trained, tmp_path, monkeypatch, capfd):
    """A server that is not there, and a place that cannot be written."""
    pytest.importorskip("mlflow")
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush-hush@127.0.0.1:9")
    run = copy_of_cache(trained, tmp_path)
    folder = run / trained.name
    folder.mkdir()
    (folder / "tensorboard").write_text("a file of my own")
    train(run, with_train(trained.recipe, report_to=("tensorboard", "mlflow")))
    said = capfd.readouterr().out
    assert said.count("tensorboard does not work") == 1
    assert said.count("mlflow does not work") == 1 and "metrics.jsonl has everything" in said
    assert "127.0.0.1:9" in said and "hush-hush" not in said
    whole = trained.path / trained.name / "metrics.jsonl"
    assert (folder / "metrics.jsonl").read_bytes() == whole.read_bytes()
    assert (folder / "tensorboard").read_text() == "a file of my own"


def test_one_that_is_not_installed_is_refused_before_anything_is_loaded(trained, tmp_path, monkeypatch):
    installed = tracking._is_installed
    monkeypatch.setattr("trainer.tracking._is_installed", lambda name: name != "mlflow" and installed(name))
    monkeypatch.setattr("trainer.starting.open_policy", lambda *_: pytest.fail("the model was loaded"))
    run = copy_of_cache(trained, tmp_path)
    with pytest.raises(UserError, match=r'needs mlflow, which is not .* pip install "prefmill\[mlflow\]"'):
        train(run, with_train(trained.recipe, report_to=("mlflow",)))
    assert [path.name for path in run.glob("train-*/*")] == [".lock"]


def test_a_finished_run_is_found_finished_where_a_tracker_is_not_installed(
    trained, monkeypatch, tmp_path, capsys
):
    folder = trained.copy(tmp_path / "run")
    monkeypatch.setattr("trainer.tracking._is_installed", lambda name: False)
    before = tree(folder)
    tracked = with_train(trained.recipe, report_to=("mlflow",))
    train(tmp_path / "run", tracked)
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match="needs mlflow"):
        train(tmp_path / "run", tracked, resume=False)
    assert tree(folder) == before


def test_a_folder_of_logs_is_no_package(tmp_path, monkeypatch):
    """Both W&B and MLflow leave folders named like themselves where they are run."""
    (tmp_path / "trackerlogs" / "run-1").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not tracking._is_installed("trackerlogs")
    assert tracking._is_installed("json")


def test_the_older_spelling_is_the_same(trained):
    train_section = with_train(trained.recipe, tensorboard=True, report_to=("mlflow",)).section("train")
    assert tracking.names_of(train_section) == ["tensorboard", "mlflow"]


def test_answers_are_a_table_in_wandb(trained, tmp_path):
    pytest.importorskip("wandb")
    run = copy_of_cache(trained, tmp_path)
    train(run, with_train(trained.recipe, report_to=("wandb",), max_steps=1))
    (folder,) = run.glob("train-*")
    tables = sorted((folder / "wandb").glob("offline-run-*/files/media/table/*.json"))
    assert len(tables) == 2  # of steps 0 and 1
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    table = json.loads(tables[0].read_text())
    first = [list(line.values())[1:] for line in lines if line["step"] == 0]
    assert table["columns"] == list(lines[0])[1:] and table["data"] == first


@pytest.mark.long
def test_all_hold_the_record_after_sigkill(trained, tmp_path):
    """The process is gone without a word; those that it has started, too."""
    for name in ALL:
        pytest.importorskip(name)
    import os
    import signal
    import subprocess

    from schemas.recipe import dump
    from tests.conftest import ROOT

    run = copy_of_cache(trained, tmp_path)
    recipe = with_train(trained.recipe, report_to=ALL, max_steps=200, eval_every=100, save_every=20)
    (tmp_path / "given.toml").write_bytes(dump(recipe))
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", "run", str(tmp_path / "given.toml"), "-o", str(run)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 100
    while not list(run.glob("train-*/checkpoint-20/state.json")) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    train(run, recipe)
    (folder,) = run.glob("train-*")
    want = points_of(folder)
    assert set(want["loss"]) == set(range(1, 201))
    assert {name: once(points) for name, points in wandb_points(folder).items()} == want
    from mlflow.tracking import MlflowClient

    from trainer.trackers.mlflow import address

    client = MlflowClient(tracking_uri=address(folder))
    (shown,) = client.search_runs([client.get_experiment_by_name("prefmill").experiment_id])
    history = client.get_metric_history(shown.info.run_id, "loss")
    assert once((point.step, point.value) for point in history) == want["loss"]
