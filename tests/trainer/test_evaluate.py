"""`trainer eval` says of a checkpoint what training said of it; the reference comes out as the reference."""

import json
import shutil

import numpy as np
import pytest

from tests.conftest import command
from tests.trainer.test_train import lines, recipe_for
from trainer.train import train


def test_a_checkpoint_and_the_reference(made_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(made_run, run)
    last = train(run, recipe_for(run, train__max_steps=8, train__loss="ipo", train__ipo__reduction="sum"))
    trained = {
        name.removeprefix("eval_"): value
        for name, value in lines(last.parent)[-1].items()
        if name.startswith("eval_")
    }
    for policy in (last, last.parent):
        found = json.loads(command("trainer", "eval", run, policy, "--format", "json").stdout)
        assert {name: found[name] for name in trained} == pytest.approx(trained, rel=1e-5, abs=1e-5)
    assert found["drift/chosen"] == pytest.approx(found["rewards/chosen"] / 0.1, rel=1e-6)
    assert (
        found["mean_logratio"] == pytest.approx((found["drift/chosen"] + found["drift/rejected"]) / 2)
        and found["mean_logratio"] != 0
    )
    counts = json.loads(next(run.glob("pairs-*/manifest.json")).read_text())["counts"]
    assert found["pairs"] == counts["test"] and found["length/chosen"] > found["length/rejected"]
    assert found["length/chosen_is_longer"] == 1  # as tests/conftest.py's preferences are

    said = command("trainer", "eval", run).stdout
    assert "loss" in said and float(
        next(line.split()[1] for line in said.splitlines() if line.startswith("loss"))
    ) == pytest.approx(np.log(2), abs=1e-5)
    said = command("trainer", "eval", run, "--set", "train.loss=sr_dpo", code=1).stderr
    assert (
        "train.loss = sr_dpo needs log-probs under the quality prompt" in said
        and "or measure this policy by another loss, as with --set train.loss=dpo" in said
    )
    assert "no model folder" in command("trainer", "eval", run, tmp_path, code=1).stderr
    assert "is not a run folder" in command("trainer", "eval", tmp_path, code=1).stderr
