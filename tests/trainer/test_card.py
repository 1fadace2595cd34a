"""The model card of a train folder: what was measured, how to load it; the same run has the same card."""

import re
import shutil

import pytest
import torch

from schemas.store import open_store
from schemas.trainings import record
from tests.conftest import command
from tests.trainer.test_train import lines, recipe_for
from trainer import card
from trainer.card import CURVES, README
from trainer.train import train


def trained(run, **settings):
    before = set(run.glob("train-*"))
    train(run, recipe_for(run, **settings))
    (folder,) = set(run.glob("train-*")) - before
    return folder


@pytest.fixture
def run(made_run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(made_run, path)
    return path


def test_a_card_says_what_was_measured_and_its_loading_works(run):
    folder = trained(run, train__max_steps=4, train__eval_every=2)
    text = (folder / README).read_text()
    assert text.startswith("---\nlibrary_name: transformers\n") and "{" not in text.partition("```toml")[0]
    rows = {int(row[0]): row[1:] for row in re.findall(r"^\| (\d+) \| (.*?) \| (.*?) \|", text, re.MULTILINE)}
    measured = [line for line in lines(folder) if "eval_loss" in line]
    assert list(rows) == [line["step"] for line in measured] == [0, 2, 4]
    for line in measured:
        loss, accuracy = rows[line["step"]]
        assert float(loss) == pytest.approx(line["eval_loss"], rel=1e-3)
        assert float(accuracy) == pytest.approx(line["eval_rewards/accuracies"], rel=1e-3)
    facts = card.made_from(open_store(run))
    assert facts and all(f"- {line}" in text for line in facts)
    assert "beta = `0.1`" in text and 'loss = "dpo"' in text
    # The code that the card shows, run where the card lies.
    code = re.search("```python\n(.*?)```", text, re.DOTALL)[1]
    names: dict = {}
    exec(code.replace('("checkpoint', f'("{folder}/checkpoint'), names)
    assert names["model"](torch.tensor([[1, 2, 3]])).logits.shape[1] == 3
    assert not (folder / CURVES).exists()


def test_curves_are_drawn_of_a_long_run_and_the_same_run_gives_the_same_card(run, monkeypatch):
    monkeypatch.setattr(card, "_STEPS_WITH_CURVES", 3)
    folder = trained(run, train__max_steps=3, train__eval_every=0)
    first = {name: (folder / name).read_bytes() for name in (README, CURVES)}
    assert f"![curves of the training]({CURVES})" in first[README].decode()
    assert first[CURVES].startswith(b"<svg") and b"tokens a second" not in first[CURVES]
    for name in first:
        (folder / name).unlink()
    train(run, recipe_for(run, train__max_steps=3, train__eval_every=0), resume=False)
    assert {name: (folder / name).read_bytes() for name in first} == first

    def broken(*args):
        raise RuntimeError("no fonts")

    monkeypatch.setattr("schemas.trainings.picture.picture", broken)
    train(run, recipe_for(run, train__max_steps=3, train__eval_every=0), resume=False)
    assert "curves of the training" not in (folder / README).read_text()


def test_a_card_of_somebody_else_is_left_alone(run, capsys):
    folder = trained(run, train__max_steps=2)
    (folder / README).write_text("# mine\n")
    train(run, recipe_for(run, train__max_steps=2), resume=False)
    assert (folder / README).read_text() == "# mine\n"
    assert "somebody's own and stays as it is" in capsys.readouterr().out


def test_names_from_outside_are_no_markup():
    assert card.literal("a`|<b>\x1b[0m\n# x") == "`a'/<b>\\x1b[0m\\n# x`"


def test_bars_rise_and_fall_with_the_values():
    assert card._bars([0.0, 1.0, 2.0, 7.0]) == "▁▂▃█"
    assert card._bars([3.0, 3.0]) == "▁▁"
    assert len(card._bars([float(number) for number in range(1000)])) == 40


def test_an_adapters_card_says_how_it_is_merged(run):
    pytest.importorskip("peft")
    folder = trained(run, train__max_steps=2, train__lora__r=2)
    text = (folder / README).read_text()
    assert "library_name: peft" in text and "trainer merge checkpoint-2" in text
    assert record.read(open_store(folder))
    code = re.search("```python\n(.*?)```", text, re.DOTALL)[1]
    names: dict = {}
    exec(code.replace('("checkpoint', f'("{folder}/checkpoint'), names)
    assert names["model"](torch.tensor([[1, 2, 3]])).logits.shape[1] == 3
    assert command("trainer", "compare", run, "-o", run / "x.png").stdout
