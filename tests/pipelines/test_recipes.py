"""Every recipe that ships is whole.

It has its paper's settings (methods §1 to §5), and does the job from raw rows through one step of each loss
that it names.
"""

import json

import pytest

from pipelines.sandbox import world
from tests.conftest import ROOT, preferences
from trainer.losses import choose

FOLDER = ROOT / "pipelines" / "recipes"
PAPERS = {
    "dpo": {"dpo": {"beta": 0.1}},
    "ipo": {"ipo": {"beta": 0.1, "reduction": "mean"}},
    "sr_dpo": {
        "sr_dpo": {"beta": 0.1, "lam": 0.3, "delta": "live"},
        "sr_ipo": {"beta": 0.1, "scaling": "printed"},
        "score_margin": {"scorer": "prompt_gain"},
        "dpo": {"beta": 0.1},
    },
    "rpo": {"rpo": {"beta": 0.01, "eta": 0.005, "reduction": "sum", "y0": "chosen"}, "dpo": {"beta": 0.01}},
    "bmc": {"bmc": {"beta": 0.05, "delta": 2.5, "weighting": "paper"}, "ipo_bmc": {}},
}


def test_every_recipe_is_known_here():
    assert {path.stem for path in FOLDER.glob("*.toml")} == {*PAPERS, "sandbox"}


@pytest.mark.parametrize("name", PAPERS)
def test_it_runs_from_raw_rows_to_a_step_of_each_loss(name, model_path, tmp_path, capsys):
    from engine.commands.precompute import precompute
    from schemas.recipe import Recipe, load
    from trainer.train import train

    alone = name == "bmc"
    rows = world.prompts(4, 6) if alone else preferences(4, 6)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = ROOT / "pipelines" / "sandbox" / "model" if alone else model_path
    settings = [
        f"prompts.source={tmp_path / 'rows.jsonl'}",
        f"model.name={model}",
        "prompts.shards=1",
        "logprobs.max_length=0",
        "pairs.test_share=0",
        "train.max_steps=1",
    ]
    settings += ["generate.n=2", "generate.max_tokens=60", "rewrite.max_tokens=60"] if alone else []
    recipe = load(FOLDER / f"{name}.toml", settings)
    assert recipe.section("train").loss == next(iter(PAPERS[name]))
    precompute(tmp_path / "run", recipe, 1)
    for loss, keys in PAPERS[name].items():
        given = load(FOLDER / f"{name}.toml", [*settings, f"train.loss={loss}"])
        objective = choose(given.section("train"))
        assert {key: getattr(objective.config, key) for key in keys} == keys
        train(tmp_path / "run", Recipe(given.sections, given.seed))
    assert capsys.readouterr().out.count("step 0: loss") == len(PAPERS[name])


def test_sr_dpos_is_the_papers():
    from schemas.recipe import load

    recipe = load(FOLDER / "sr_dpo.toml", [])
    train, logprobs = recipe.section("train"), recipe.section("logprobs")
    assert (train.learning_rate, train.optimizer, train.batch_size, logprobs.max_length) == (
        5e-7,
        "rmsprop",
        64,
        512,
    )
    assert logprobs.contexts == ("plain", "quality")
