"""Training that is killed, refused by the disk, told to end or given numbers that are not finite."""

import errno
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
import torch

import trainer.train
from schemas.errors import UserError
from schemas.recipe import dump
from schemas.store import LocalStore, open_store
from schemas.trainings import read as trainings
from tests.conftest import ROOT, tree
from tests.faulty import FaultyStore, Killed, every_fault
from tests.reliability.training import Refusal, Trained, trained  # noqa: F401 (a fixture)
from trainer.evaluate import evaluate
from trainer.train import train


def try_refusals(trained: Trained, trials, tmp_path, numbers, codes):  # noqa: F811
    with trials("training refused a write by the disk") as trial:
        for number in numbers:
            for code in codes:
                with trial(f"{errno.errorcode[code]}: {trained.writes[number - 1]}"):
                    run = tmp_path / "run"
                    shutil.rmtree(run, ignore_errors=True)
                    shutil.copytree(trained.cache, run)
                    with pytest.raises(UserError, match="run the same command") as found:
                        train(FaultyStore(LocalStore(run), Refusal(number, code)), trained.recipe)
                    assert str(run) in str(found.value) and errno.errorcode[code] in str(found.value)
                    trained.again(run)


def test_a_refused_write_is_named_and_made_good(trained, trials, tmp_path):  # noqa: F811
    """One sentence with the place; the same command then ends in the same bytes. Some of the writes."""
    by_kind: dict[str, int] = {}
    for number, what in enumerate(trained.writes, 1):
        by_kind.setdefault(what.split()[0] + what.rpartition("/")[2][:8], number)
    try_refusals(trained, trials, tmp_path, list(by_kind.values())[-4:], [errno.ENOSPC])


@pytest.mark.long
def test_every_refused_write_is_named_and_made_good(trained, trials, tmp_path):  # noqa: F811
    """All of the writes, by a full disk and by a broken one."""
    numbers = range(1, len(trained.writes) + 1)
    try_refusals(trained, trials, tmp_path, numbers, [errno.ENOSPC, errno.EIO])


@pytest.mark.long
def test_killed_at_every_write(trained, trials, tmp_path):  # noqa: F811
    """Half of a write, or a write of which the writer never learnt."""
    with trials("training on 1 rank killed at a write") as trial:
        for fault in every_fault(len(trained.writes)):
            with trial(f"{fault.way} {trained.writes[fault.number - 1]}"):
                run = tmp_path / "run"
                shutil.rmtree(run, ignore_errors=True)
                shutil.copytree(trained.cache, run)
                with pytest.raises(Killed):
                    train(FaultyStore(LocalStore(run), fault), trained.recipe)
                trained.again(run)


def command_of(trained: Trained, run):  # noqa: F811
    """The command line of its training, in a process that leads a group of its own."""
    recipe = run.parent / "given.toml"
    recipe.write_bytes(dump(trained.recipe))
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", "run", str(recipe), "-o", str(run)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.long
@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130), ("HUP", 129)])
def test_told_to_end(name, code, trained, trials, tmp_path):  # noqa: F811
    """It ends, and the same command goes on to the same bytes."""
    run = tmp_path / "run"
    shutil.copytree(trained.cache, run)
    with trials("training told to end by a signal") as trial, trial(name):
        process = command_of(trained, run)
        until = time.monotonic() + 60
        while not list(run.glob("train-*/metrics.jsonl")) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(getattr(signal, f"SIG{name}"))
        said, _ = process.communicate(timeout=60)
        # -15 and -1: Python's own end by the signal.
        assert process.returncode in (code, code - 128 - 2 * (code - 128)), said
        trained.again(run)


@pytest.mark.long
def test_fifty_random_kills(trained, trials, tmp_path):  # noqa: F811
    """SIGKILL at any moment of a training run, in processes forked from one that has loaded everything."""
    run = tmp_path / "run"
    shutil.copytree(trained.cache, run)
    draw = random.Random(50)
    torch.set_num_threads(1)
    begun = time.monotonic()
    train(run, trained.recipe, resume=False)
    seconds = time.monotonic() - begun
    with trials("training killed at a random moment") as trial:
        for number in range(50):
            with trial(number):
                if number % 5 == 0:  # several kills of one run, then a look at its end
                    shutil.rmtree(run)
                    shutil.copytree(trained.cache, run)
                pid = os.fork()
                if pid == 0:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                    with open(os.devnull, "w") as sys.stderr:
                        train(run, trained.recipe)
                        os._exit(0)
                time.sleep(draw.uniform(0, 1.2 * seconds))
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                if number % 5 == 4:
                    trained.again(run)


def test_two_trainings_in_one_folder(trained, trials, tmp_path):  # noqa: F811
    """The second is refused with a sentence, the first is not disturbed."""
    with trials("two trainings in one folder") as trial:
        for finished in (True, False):
            with trial("finished" if finished else "unfinished"):
                folder = trained.copy(tmp_path / "run")
                if not finished:
                    (folder / "manifest.json").unlink()
                before = tree(folder)
                with (
                    open_store(folder).lock("trainer run"),
                    pytest.raises(UserError, match=r"another `trainer run`.*is at work"),
                ):
                    train(tmp_path / "run", trained.recipe)
                assert tree(folder) == before
                trained.again(tmp_path / "run")


def spoilt(run, trained, value, step):  # noqa: F811
    """Set a weight of a checkpoint to a value, and let its digests say so: as a policy that has overflown."""
    from safetensors.torch import load_file, save_file

    from schemas.checkpoints import state_bytes

    folder = trained.copy(run) / f"checkpoint-{step}"
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    state = json.loads((folder / "state.json").read_bytes())
    position = {key: state[key] for key in state if key not in ("files", "sha256")}
    (folder / "state.json").write_bytes(state_bytes(position, folder))
    return folder


def diverging(trained, **values):  # noqa: F811
    from dataclasses import replace

    return trained.recipe.with_sections(train=replace(trained.recipe.section("train"), **values))


def test_numbers_that_are_not_finite_are_not_written(trained, trials, tmp_path, monkeypatch):  # noqa: F811
    """Each is an error that names the step, the pairs or the tensor; what is on the disk stays valid."""
    run = tmp_path / "run"
    with trials("numbers that are not finite") as trial:
        with trial("weights that overflow before a checkpoint"):
            shutil.copytree(trained.cache, run)
            with pytest.raises(
                UserError, match=r"after step 1 .* is not finite, so checkpoint-1 is not written"
            ):
                train(run, diverging(trained, learning_rate=3e38, eval_every=0, weight_decay=3e38))
            check_valid(run)
            assert not list(run.glob("train-*/checkpoint-*"))
        with trial("eval of a policy that is not finite"):
            folder = spoilt(run, trained, math.nan, 3)
            with pytest.raises(UserError, match="not finite: its weights hold NaN"):
                evaluate(open_store(run), trained.recipe, folder)
        with trial("a policy that overflows in an evaluation"):
            shutil.rmtree(run)
            shutil.copytree(trained.cache, run)
            update = trainer.train._update

            def overflow(job, state, *rest):
                """An update after which the policy's numbers overflow."""
                made = update(job, state, *rest)
                with torch.no_grad():
                    state.policy.model.model.norm.weight.fill_(math.inf)
                return made

            monkeypatch.setattr("trainer.train._update", overflow)
            held_out = pairs_held_out(run)
            with pytest.raises(UserError, match="numbers on 4 held-out pairs are not finite") as found:
                train(run, diverging(trained, eval_every=1, save_every=0))
            assert all(pair_id in str(found.value) for pair_id in held_out)
            check_valid(run)


def pairs_held_out(run):
    """Their ids."""
    files = run.glob("pairs-*/*.parquet")
    rows = [row for file in files for row in pq.read_table(file, columns=["pair_id", "split"]).to_pylist()]
    return [row["pair_id"] for row in rows if row["split"] == "test"]


def check_valid(run):
    """Every line of the record is JSON with finite numbers."""
    for file in run.glob("train-*/metrics.jsonl"):
        for line in file.read_text().splitlines():
            values = json.loads(line).values()
            assert all(map(math.isfinite, values)), line


@pytest.mark.parametrize(
    "bad", ['{"step": 2, "loss": NaN}', '{"step": 2, "lo', '{"step": 9, "loss": 1}', "[]"]
)
def test_a_damaged_record_is_named(bad, trained, trials, tmp_path, capsys):  # noqa: F811
    """Compare and the run that goes on say which line; deleting it, as they advise, lets both go on."""
    run = tmp_path / "run"
    with trials("metrics.jsonl with a damaged line") as trial, trial(bad):
        folder = trained.copy(run)
        file = folder / "metrics.jsonl"
        lines = file.read_text().splitlines()
        file.write_text("\n".join([*lines[:2], bad, *lines[2:]]) + "\n")
        (folder / "manifest.json").unlink()
        number = 4 if '"step": 9' in bad else 3
        with pytest.raises(UserError, match=rf"metrics.jsonl, line {number}: .*delete this line"):
            trainings.read([folder])
        with pytest.raises(UserError, match=rf"metrics.jsonl, line {number}: "):
            train(run, trained.recipe)
        file.write_text("\n".join(lines) + "\n")
        assert len(trainings.read([folder])) == 1
        trained.again(run)


def test_a_record_that_was_cut_off_is_made_whole(trained, trials, tmp_path):  # noqa: F811
    """A kill cuts off the last line and no other."""
    with trials("metrics.jsonl cut off") as trial:
        size = (trained.path / trained.name / "metrics.jsonl").stat().st_size
        for cut in (1, 2, 30):
            with trial(cut):
                folder = trained.copy(tmp_path / "run")
                (folder / "manifest.json").unlink()
                shutil.rmtree(folder / "checkpoint-3")
                os.truncate(folder / "metrics.jsonl", size - cut)
                assert len(trainings.read([folder])) == 1
                trained.again(tmp_path / "run")
