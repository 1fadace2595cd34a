"""`trainer compare`: runs are named by what tells them apart, the table says where they ended, seeds are one
curve; the picture shows what was logged."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from schemas.digest import fingerprint
from schemas.errors import UserError
from schemas.store import open_store
from schemas.trainings import clock, curves, panels, picture, read, table
from schemas.trainings.labels import labels
from tests.conftest import command
from tests.trainer.test_train import lines, recipe_for
from trainer.train import train


@pytest.fixture(scope="module")
def run(made_run, tmp_path_factory):
    """DPO with two seeds and with another β, IPO, each of 6 steps."""
    path = tmp_path_factory.mktemp("compare") / "run"
    shutil.copytree(made_run, path)
    for settings in (
        {},
        {"seed": 5},
        {"train__dpo__beta": 0.4},
        {"train__loss": "ipo", "train__ipo__reduction": "sum"},
    ):
        recipe = recipe_for(
            path,
            train__max_steps=6,
            train__eval_every=2,
            **{name: value for name, value in settings.items() if name != "seed"},
        )
        train(path, type(recipe)(recipe.sections, settings.get("seed", 0)))
    return path


def test_runs_are_named_by_what_they_differ_in(run):
    found = read.read([run])
    assert sorted(labels(found)) == ["dpo beta=0.1", "dpo beta=0.1", "dpo beta=0.4", "ipo beta=0.1"]
    assert sorted(labels([one for one in found if one.facts["loss.beta"] == 0.1])) == [
        "dpo",
        "dpo",
        "ipo",
    ]


def test_the_table_says_where_each_ended(run):
    rows = {(row["run"], row["seed"]): row for row in table.table(read.read([run])).to_dicts()}
    for folder in run.glob("train-*"):
        facts, last = json.loads((folder / "facts.json").read_text()), lines(folder)[-1]
        row = next(row for row in rows.values() if row["folder"] == folder.name)
        assert row["seed"] == facts["seed"] and row["steps"] == "6" and row["of"] == "held out"
        assert row["loss"] == last["eval_loss"] and row["logps/chosen"] == last["eval_logps/chosen"]
        # Drift is the reward less β: the change of the chosen log-prob since step 0, by another way.
        start = next(line for line in lines(folder) if "eval_loss" in line)
        assert row["drift/chosen"] == pytest.approx(
            last["eval_logps/chosen"] - start["eval_logps/chosen"], abs=1e-3
        )
    assert len(rows) == 4


def test_seeds_are_one_curve_with_its_range(run):
    both = [
        one for one in read.read([run]) if one.facts["loss.name"] == "dpo" and one.facts["loss.beta"] == 0.1
    ]
    over = curves.drawn(curves.Curve("both", both), "margin").held_out
    assert over["step"].to_list() == [0, 2, 4, 6]
    values = np.array([one.eval["margin"].to_list() for one in both])
    np.testing.assert_allclose(over["mean"], values.mean(0))
    np.testing.assert_allclose(np.stack([over["low"], over["high"]]), [values.min(0), values.max(0)])


def test_the_picture_has_a_line_for_each_and_names_it(run):
    """What is drawn, as the charts say it; and the picture has these names in it."""
    found = read.read([run])
    names = {"dpo beta=0.1 (2 seeds)", "dpo beta=0.4", "ipo beta=0.1"}
    charts = panels.panels(curves.curves(found))
    assert set(charts) == set(panels.TITLES)
    ipo = next(one for one in found if one.facts["loss.name"] == "ipo")
    # How fast it was, and in how much memory: of each step a positive number.
    for one in found:
        assert (one.train["tokens_per_second"] > 0).all() and one.train["memory"].null_count() == 0
        assert 0.05 < one.train["memory"][-1] < 64
    for panel in ("accuracies", "margin", "chosen", "rejected", "loss", "logps_chosen", "logps_rejected"):
        rows = charts[panel]["data"]["values"]
        assert {row["curve"] for row in rows} == names
        of_ipo = [row for row in rows if row["curve"] == "ipo beta=0.1"]
        measured = ipo.eval.filter(pl.col("step") > 0) if panel == "accuracies" else ipo.eval
        held_out = [row["value"] for row in of_ipo if row["kind"] == "held_out"]
        np.testing.assert_allclose(held_out, measured[panel], rtol=1e-4)
        logged = [row["value"] for row in of_ipo if row["kind"] == "logged"]
        np.testing.assert_allclose(logged, ipo.train[panel][-len(logged) :], rtol=1e-4)
        assert len(logged) >= 4
    drawn = picture.picture(found, "svg").decode()
    for name in names:
        assert f">{name}<" in drawn
    image = picture.picture(found, "png")
    assert image.startswith(b"\x89PNG") and image == picture.picture(found, "png")


def test_a_noisy_curve_is_smoothed_and_thinned(run):
    """A line through 4,000 noisy steps has 300 points or so, the last one too, near the values' mean."""
    steps = np.arange(1, 4001)
    noisy = 3.0 + np.random.default_rng(0).normal(0, 1, len(steps))
    one = read.read([run])[0]
    train = pl.DataFrame({"step": steps, **dict.fromkeys(read.CURVES, noisy)})
    drawn = curves.drawn(curves.Curve("noisy", [replace(one, train=train)]), "loss")
    (logged,) = drawn.logged
    assert 200 < len(drawn.smooth) <= 302 and 200 < len(logged) <= 302
    assert drawn.smooth["step"][-1] == logged["step"][-1] == 4000
    settled = drawn.smooth.filter(pl.col("step") > 200)["mean"]
    assert (settled - 3.0).abs().max() < 0.3 and (logged["value"] - 3.0).abs().max() > 2


def test_the_command(run, made_run, tmp_path):
    one = next(run.glob("train-*"))
    said = command("trainer", "compare", run, "-o", tmp_path / "all.png").stdout
    assert "dpo beta=0.4" in said and "drift/chosen" in said and f"curves: {tmp_path / 'all.png'}" in said
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    command("trainer", "compare", run, "-o", tmp_path / "all.svg")
    assert (tmp_path / "all.svg").read_text().startswith("<svg")
    (row,) = map(
        json.loads,
        command(
            "trainer", "compare", one, one, "--format", "json", "-o", tmp_path / "one.png"
        ).stdout.splitlines(),
    )
    assert row["folder"] == one.name and "logps/rejected" in row
    assert (
        "holds no training run"
        in command("trainer", "compare", made_run, "-o", tmp_path / "no.png", code=1).stderr
    )
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "facts.json").write_text("{")
    assert (
        "which writes it again, or leave its folder out"
        in command("trainer", "compare", tmp_path / "bad", "-o", tmp_path / "no.png", code=1).stderr
    )
    assert (
        "ends in .png or .svg" in command("trainer", "compare", run, "-o", tmp_path / "no.pdf", code=1).stderr
    )


def test_a_run_at_work_is_shown_as_far_as_it_is(run, tmp_path):
    folder = tmp_path / "run" / "train-x"
    shutil.copytree(next(run.glob("train-*")), folder)
    (folder / "manifest.json").unlink()
    text = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(text[:3]) + text[3][:20])
    (found,) = read.read([folder.parent])
    (row,) = table.table([found]).to_dicts()
    assert row["steps"] == "2 (unfinished)" and found.train["step"].to_list() == [1, 2]
    # What was last held out is of another step: the last batch's numbers stand here.
    assert row["of"] == "last batch" and row["loss"] == json.loads(text[2])["loss"]
    assert picture.picture([found], "png")
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no run has made a step yet"):
        read.read([folder])


def test_without_held_out_pairs_the_last_batch_is_said_to_be_it(run, tmp_path):
    folder = tmp_path / "train-x"
    shutil.copytree(next(run.glob("train-*")), folder)
    kept = [
        line
        for line in (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        if "eval_" not in line
    ]
    (folder / "metrics.jsonl").write_text("".join(kept))
    (folder / "manifest.json").unlink()  # it would say that this is not the record that was written
    rows = table.table(read.read([folder]))
    assert (
        rows["of"][0] == "last batch" and "of" in table.shown(rows).columns and isinstance(rows, pl.DataFrame)
    )
    assert io.BytesIO(picture.picture(read.read([folder]), "png")).read(4) == b"\x89PNG"


def copied(run, tmp_path, name, **facts):
    """A train folder copied into a run folder of this name, with other facts; None takes one away."""
    one = next(
        folder
        for folder in sorted(run.glob("train-*"))
        if json.loads((folder / "facts.json").read_text())["loss"]["name"] == "dpo"
    )
    folder = tmp_path / name / one.name
    shutil.copytree(one, folder)
    known = json.loads((folder / "facts.json").read_text())
    known["loss"] = {key: value for key, value in (known["loss"] | facts).items() if value is not None}
    (folder / "facts.json").write_text(json.dumps(known))
    return folder.rename(folder.with_name(f"train-{fingerprint(known)}"))


def test_a_setting_that_an_older_run_does_not_know_tells_it_apart(run, tmp_path):
    new, old = (
        copied(run, tmp_path, "new", label_smoothing=0.1),
        copied(run, tmp_path, "old", label_smoothing=None),
    )
    assert labels(read.read([new, old])) == ["dpo label_smoothing=0.1", "dpo"]


def test_equal_runs_of_one_seed_are_no_seeds(run, tmp_path):
    """The same settings in two run folders: two curves, each named by its folder, in the table too."""
    folders = [copied(run, tmp_path, name) for name in ("a", "b")]
    found = read.read(folders)
    names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    assert [curve.name for curve in curves.curves(found)] == [f"dpo {name}" for name in names]
    assert table.table(found)["folder"].to_list() == names


def test_ties_before_the_first_update_are_no_accuracy(run):
    one, *_ = read.read([run])
    # What another number of threads makes of zero: on this machine cache and policy may agree to the last
    # bit.
    one = replace(
        one,
        train=one.train.with_columns(
            margin=pl.when(pl.col("step") == 1).then(3e-8).otherwise(pl.col("margin"))
        ),
    )
    drawn = curves.drawn(curves.Curve("x", [one]), "accuracies")
    for frame in (*drawn.logged, drawn.smooth, drawn.held_out):
        assert len(frame) and min(frame["step"]) > 1


def test_damaged_lines_of_the_clock_are_left_out(run, tmp_path):
    folder = tmp_path / "train-x"
    shutil.copytree(next(run.glob("train-*")), folder)
    whole = clock.read(open_store(folder))
    with (folder / "clock.jsonl").open("a") as file:
        for text in (
            "{",
            '{"step": 1}',
            f'{{"step": 1, "seconds": 1, "tokens": {10**400}, "memory": 1}}',
            f'{{"step": {10**40}, "seconds": 1, "tokens": 1, "memory": 1}}',
            '{"step": 1, "seconds": NaN, "tokens": 1, "memory": 1}',
            '{"step": 1, "seconds": 0, "tokens": 1, "memory": 1}',
            '{"step": true, "seconds": 1, "tokens": 1, "memory": 1}',
        ):
            file.write(text + "\n")
    assert clock.read(open_store(folder)).equals(whole) and len(whole) == 6


def test_a_training_of_one_step_is_a_point(run, tmp_path):
    folder = tmp_path / "train-x"
    shutil.copytree(next(run.glob("train-*")), folder)
    (folder / "manifest.json").unlink()
    kept = [line for line in (folder / "metrics.jsonl").read_text().splitlines(True) if "eval_" not in line]
    (folder / "metrics.jsonl").write_text(kept[0])
    (found,) = read.read([folder])
    (smooth,) = [
        layer
        for layer in panels.panels(curves.curves([found]))["loss"]["layer"]
        if layer["mark"].get("strokeWidth") == 2
    ]
    assert smooth["mark"]["point"] is True
