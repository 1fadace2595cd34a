"""Which draw a folder of samples holds: a finished one from before is found, an unfinished one is not."""

import json

import pytest

from engine.commands.precompute import precompute
from engine.draws import draw_facts
from engine.models.spec import ModelSpec
from engine.plan import plan
from schemas.errors import UserError
from schemas.recipe import load
from schemas.sections import Model, Sampling

RECIPE = """
[model]
name = "{model}"
backend = "hf"
[prompts]
source = "{source}"
format = "prompts"
shards = 2
[generate]
max_tokens = 5
"""


def test_the_draw_is_a_fact_where_transformers_samples():
    spec = ModelSpec(Model(name="m"), "hf")
    assert draw_facts(Sampling(), spec) == {"draw": 2}
    assert draw_facts(Sampling(temperature=0.0), spec) == {}
    assert draw_facts(Sampling(), ModelSpec(Model(name="m"), "vllm")) == {}


def test_a_finished_run_of_the_draw_before_has_nothing_to_do(model_path, tmp_path, monkeypatch, capsys):
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"What is {n}?"}) + "\n" for n in range(6)))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(model=model_path, source=source))
    recipe = load(tmp_path / "recipe.toml")
    run = tmp_path / "run"
    with monkeypatch.context() as before:
        before.setattr("engine.stages.generate.draw_facts", lambda sampling, spec: {})
        precompute(run, recipe, 1)
        older = plan(run, recipe).planned["generate"]
    assert "draw" not in older.facts
    capsys.readouterr()
    precompute(run, recipe, 1)
    assert "nothing to do" in capsys.readouterr().out
    assert plan(run, recipe).planned["generate"] == older
    # Nor is anything sampled anew after a repair above it that was stopped: its shards are there.
    (run / older.folder / "manifest.json").unlink()
    assert plan(run, recipe).planned["generate"] == older
    precompute(run, recipe, 1)
    # A shard of it that is damaged cannot be made again in the same way.
    next((run / older.folder).glob("00001.json")).write_text("{}")
    with pytest.raises(UserError, match=rf"{older.folder} was sampled by an older version.*remove"):
        precompute(run, recipe, 1)
    # Of one that was not finished the rest would be of another draw than its shards.
    (run / older.folder / "manifest.json").unlink(missing_ok=True)
    newer = plan(run, recipe).planned["generate"]
    assert newer.facts == older.facts | {"draw": 2} and newer.folder != older.folder
    precompute(run, recipe, 1)
    assert (run / newer.folder / "manifest.json").exists()
    assert plan(run, recipe).planned["generate"] == newer
