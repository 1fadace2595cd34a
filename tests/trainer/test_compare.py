"""`trainer compare`: runs are named by what tells them apart, the table says where they ended, seeds are one
curve; the picture shows what was logged."""

import io
import json
import shutil

import numpy as np
import polars as pl
import pytest

from schemas.digest import fingerprint
from schemas.errors import UserError
from tests.conftest import command
from tests.trainer.test_train import lines, recipe_for
from trainer import compare, picture
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
    found = compare.read([run])
    assert sorted(compare.labels(found)) == ["dpo beta=0.1", "dpo beta=0.1", "dpo beta=0.4", "ipo beta=0.1"]
    assert sorted(compare.labels([one for one in found if one.facts["loss.beta"] == 0.1])) == [
        "dpo",
        "dpo",
        "ipo",
    ]


def test_the_table_says_where_each_ended(run):
    rows = {(row["run"], row["seed"]): row for row in compare.table(compare.read([run])).to_dicts()}
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
        one
        for one in compare.read([run])
        if one.facts["loss.name"] == "dpo" and one.facts["loss.beta"] == 0.1
    ]
    over = picture._mean_and_range([one.eval.select("step", "margin") for one in both], "margin")
    assert over["step"].to_list() == [0, 2, 4, 6]
    values = np.array([one.eval["margin"].to_list() for one in both])
    np.testing.assert_allclose(over["mean"], values.mean(0))
    np.testing.assert_allclose(np.stack([over["low"], over["high"]]), [values.min(0), values.max(0)])


def test_the_picture_has_a_line_for_each_and_names_it(run, monkeypatch):
    """What is drawn, asked of matplotlib itself."""
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: (drawn.append(self), save(self, *args, **kwargs))[1]
    )
    found = compare.read([run])
    image = picture.picture(found)
    assert image.startswith(b"\x89PNG")
    (figure,) = drawn
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "dpo beta=0.1 (2 seeds)",
        "dpo beta=0.4",
        "ipo beta=0.1",
    }
    chosen = next(axis for axis in figure.axes if "chosen log-prob" in axis.get_title())
    ipo = next(one for one in found if one.facts["loss.name"] == "ipo")
    assert any(
        np.allclose(line.get_ydata(), ipo.eval["chosen"])
        for line in chosen.lines
        if len(line.get_xdata()) == len(ipo.eval)
    )


def test_the_command(run, made_run, tmp_path):
    one = next(run.glob("train-*"))
    said = command("trainer", "compare", run, "-o", tmp_path / "all.png").stdout
    assert "dpo beta=0.4" in said and "drift/chosen" in said and f"curves: {tmp_path / 'all.png'}" in said
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
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
    assert "ends in .png" in command("trainer", "compare", run, "-o", tmp_path / "no.pdf", code=1).stderr


def test_a_run_at_work_is_shown_as_far_as_it_is(run, tmp_path):
    folder = tmp_path / "run" / "train-x"
    shutil.copytree(next(run.glob("train-*")), folder)
    (folder / "manifest.json").unlink()
    text = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(text[:3]) + text[3][:20])
    (found,) = compare.read([folder.parent])
    (row,) = compare.table([found]).to_dicts()
    assert row["steps"] == "2 (unfinished)" and found.train["step"].to_list() == [1, 2]
    # What was last held out is of another step: the last batch's numbers stand here.
    assert row["of"] == "last batch" and row["loss"] == json.loads(text[2])["loss"]
    assert picture.picture([found])
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="no run has made a step yet"):
        compare.read([folder])


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
    rows = compare.table(compare.read([folder]))
    assert (
        rows["of"][0] == "last batch"
        and "of" in compare.shown(rows).columns
        and isinstance(rows, pl.DataFrame)
    )
    assert io.BytesIO(picture.picture(compare.read([folder]))).read(4) == b"\x89PNG"


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
    assert compare.labels(compare.read([new, old])) == ["dpo label_smoothing=0.1", "dpo"]


def test_equal_runs_of_one_seed_are_no_seeds(run, tmp_path):
    """The same settings in two run folders: two curves, each named by its folder, in the table too."""
    folders = [copied(run, tmp_path, name) for name in ("a", "b")]
    found = compare.read(folders)
    names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    assert [curve.name for curve in picture.curves(found)] == [f"dpo {name}" for name in names]
    assert compare.table(found)["folder"].to_list() == names


def test_ties_before_the_first_update_are_no_accuracy(run):
    from dataclasses import replace

    from matplotlib.figure import Figure

    one, *_ = compare.read([run])
    # What another number of threads makes of zero: on this machine cache and policy may agree to the last
    # bit.
    one = replace(
        one,
        train=one.train.with_columns(
            margin=pl.when(pl.col("step") == 1).then(3e-8).otherwise(pl.col("margin"))
        ),
    )
    axis = Figure().subplots()
    picture._draw_curve(axis, "accuracies", picture.Curve("x", [one]), "C0", "-")
    assert axis.lines and all(min(line.get_xdata()) > 1 for line in axis.lines)
