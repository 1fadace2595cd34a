"""A training run: step 0 proves the cache, ranks change nothing, a checkpoint is a model folder.

That a killed run ends in the same bytes is shown in test_train_crash.py.
"""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.errors import UserError
from schemas.manifest import json_bytes
from schemas.recipe import load
from schemas.store import open_store
from tests.conftest import RECIPE, ROOT, command, settings, tree
from tests.engine.test_make import change_weights
from tests.folders import made_otherwise
from trainer import checkpoint
from trainer.train import train

SMALL = {
    "train__optimizer": "adamw",
    "train__schedule": "linear",
    "train__max_grad_norm": 1.0,
    "train__batch_size": 24,
    "train__learning_rate": 3e-3,
    "train__warmup_ratio": 0.2,
    "train__save_every": 3,
    "train__micro_batch_tokens": 300,
}


def recipe_for(run, **more):
    """As `trainer run` puts it together: the run's own recipe, and [train] with these settings."""
    made = load(run / "recipe.toml").sections
    given = load(RECIPE, [word for word in settings(**SMALL | more) if word != "--set"])
    return type(given)(made | {"train": given.section("train")}, given.seed)


@pytest.fixture
def run(made_run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(made_run, path)
    return path


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_learns_and_says_so(run, capfd):
    last = train(run, recipe_for(run, train__epochs=3, train__eval_every=10))
    said = capfd.readouterr().out
    assert "step 0: loss 0.693147 (law: 0.693147)" in said
    found = lines(last.parent)
    evals = [row for row in found if "eval_loss" in row]
    assert evals[0]["step"] == 0 and evals[0]["eval_loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert evals[-1]["eval_loss"] < 0.6 and evals[-1]["eval_rewards/accuracies"] > 0.8
    steps = [row for row in found if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, len(steps) + 1))
    names = {
        "loss",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
        "grad_norm",
        "learning_rate",
        "epoch",
        "step",
    }
    assert steps[0].keys() == names and steps[-1]["epoch"] == 3.0
    assert steps[0]["learning_rate"] < max(row["learning_rate"] for row in steps) == pytest.approx(3e-3)
    manifest = json.loads((last.parent / "manifest.json").read_text())
    assert manifest["metrics"]["eval_loss"] == evals[-1]["eval_loss"]


def test_a_checkpoint_is_a_model_folder(run, model_path):
    last = train(run, recipe_for(run, train__max_steps=4))
    model = AutoModelForCausalLM.from_pretrained(last)
    assert model.config._attn_implementation == "sdpa"
    assert (
        AutoTokenizer.from_pretrained(last).chat_template
        == AutoTokenizer.from_pretrained(model_path).chat_template
    )
    changed = [
        name
        for name, value in model.state_dict().items()
        if not torch.equal(value, AutoModelForCausalLM.from_pretrained(model_path).state_dict()[name])
    ]
    assert len(changed) == len(model.state_dict())
    assert checkpoint.steps(open_store(last.parent)) == [3, 4]


def test_a_second_time_is_done_at_once(run, capsys):
    last = train(run, recipe_for(run, train__max_steps=2))
    before = tree(run)
    assert train(run, recipe_for(run, train__max_steps=2)) == last
    assert "finished already" in capsys.readouterr().out and tree(run) == before
    assert train(run, recipe_for(run, train__max_steps=2, train__dpo__beta=0.2)) != last


def torchrun(ranks, words):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command_line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(ranks),
        "-m",
        "trainer.cli",
        *map(str, words),
    ]
    return subprocess.run(command_line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def test_two_ranks_are_one(made_run, tmp_path):
    """The same numbers up to rounding, and no hang.

    Also where a rank has nothing to do: the last batch of some 270 pairs has 1 pair."""
    n = json.loads(next(made_run.glob("pairs-*/manifest.json")).read_text())["counts"]["train"]
    size = next(size for size in range(20, 60) if n % size == 1)
    found = {}
    for ranks in (1, 2):
        run = tmp_path / str(ranks)
        shutil.copytree(made_run, run)
        done = torchrun(
            ranks,
            ["run", RECIPE, "-o", run, *settings(**SMALL | {"train__batch_size": size, "train__epochs": 2})],
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("step 0: loss 0.693147") == 1
        folder = next(run.glob("train-*"))
        found[ranks] = (
            lines(folder),
            load_file(
                max(folder.glob("checkpoint-*"), key=lambda path: int(path.name[11:])) / "model.safetensors"
            ),
        )
    (one, weights), (two, other) = found[1], found[2]
    assert len(one) == len(two) and one[-1]["step"] == 2 * -(-n // size)
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=2e-4, rel=2e-4)
    for name in weights:
        torch.testing.assert_close(weights[name], other[name], atol=2e-4, rtol=0)


def spoil(run, change):
    """Rewrite every pairs shard with changed reference log-probs, markers and all: a cache that is wrong."""
    name = "ref_chosen_token_logps"

    def changed(rows):
        field = rows.schema.field(name)
        values = [[change(value) for value in row] for row in rows[name].to_pylist()]
        return rows.set_column(rows.column_names.index(name), field, pa.array(values, field.type))

    made_otherwise(next(run.glob("pairs-*")), "pairs", changed)


def test_a_cache_that_does_not_fit_is_refused_before_the_first_step(run):
    spoil(run, lambda value: value - 0.02)
    with pytest.raises(UserError, match=r"gap between cache and policy.*mean 0\.0(1|09).*do not agree"):
        train(run, recipe_for(run, train__max_steps=2))
    assert not list(run.glob("train-*/checkpoint-*"))
    train(run, recipe_for(run, train__max_steps=2, train__tolerance=0.1))


def test_nan_in_the_cache_is_refused(run):
    spoil(run, lambda value: float("nan"))
    with pytest.raises(UserError, match=r"nan.*do not agree"):
        train(run, recipe_for(run, train__max_steps=2))


def test_one_nan_in_the_cache_is_named_by_its_pair(run):
    rows = pq.read_table(sorted(run.glob("pairs-*/*.pairs.parquet"))[-1])
    bad = rows["ref_chosen_token_logps"][3].as_py()[1]
    spoil(run, lambda value: float("nan") if value == bad else value)
    pair_id = rows["pair_id"][3].as_py()
    with pytest.raises(
        UserError, match=rf"not finite, such as nan in ref_chosen_token_logps of pair {pair_id}"
    ):
        train(run, recipe_for(run, train__max_steps=2))


def test_a_policy_that_is_not_finite_is_told_from_one_that_differs(run):
    from schemas.sections import Train
    from schemas.store import open_store
    from trainer.pairs import open_pairs
    from trainer.step import Agreement, check_cache_matches_policy

    pairs = open_pairs(run)
    for gap in (float("nan"), float("inf")):
        agreement = Agreement(loss=gap, law=0.69, mean_gap=gap, largest_gap=gap)
        with pytest.raises(UserError, match="the policy's log-probs are not finite on the first batch"):
            check_cache_matches_policy(
                agreement, Train(dtype="float32"), pairs, open_store(run), torch.device("cpu")
            )


def test_a_diverging_run_stops_on_all_ranks_with_the_pair_ids(run):
    done = torchrun(
        2,
        [
            "run",
            RECIPE,
            "-o",
            run,
            *settings(
                **SMALL | {"train__learning_rate": 1e20, "train__max_steps": 6, "train__warmup_ratio": 0.0}
            ),
        ],
    )
    assert done.returncode != 0
    assert "not finite" in done.stderr and done.stderr.count("error: ") == 1
    said = next(line for line in done.stderr.splitlines() if "error: " in line)
    known = {
        row["pair_id"]
        for path in run.glob("pairs-*/*.parquet")
        for row in pq.read_table(path, columns=["pair_id"]).to_pylist()
    }
    assert any(identity in said for identity in known)


def test_other_weights_under_the_same_name_are_named(run, model_path, tmp_path):
    own = tmp_path / "model"
    shutil.copytree(model_path, own)
    change_weights(own)
    recipe = recipe_for(run)
    changed = load(RECIPE, [f"model.name={own}"]).section("model")
    with pytest.raises(UserError, match="cache was made with other weights"):
        train(run, type(recipe)(recipe.sections | {"model": changed}, 0))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optimizer", "adam", "did you mean 'adamw'"),
        ("schedule", "cosin", "did you mean 'cosine'"),
        ("dtype", "float16", "did you mean"),
        ("batch_size", 0, "at least 1"),
    ],
)
def test_wrong_settings_are_named(run, key, value, said):
    with pytest.raises(UserError, match=said):
        train(run, recipe_for(run, **{f"train__{key}": value}))


@pytest.mark.parametrize(
    "more",
    [
        {"train__optimizer": "rmsprop", "train__schedule": "cosine"},
        {"train__dtype": "bfloat16", "train__accept_other_dtype": "true"},
        {"train__gradient_checkpointing": "true", "train__schedule": "constant"},
    ],
)
def test_other_ways_to_train_learn_too(run, more):
    rate = {"train__learning_rate": 3e-4} if "train__optimizer" in more else {}
    last = train(run, recipe_for(run, train__max_steps=20, **more | rate))
    evals = [row for row in lines(last.parent) if "eval_loss" in row]
    assert evals[-1]["eval_loss"] < evals[0]["eval_loss"] - 0.01


def test_gradient_checkpointing_changes_no_metric(made_run, tmp_path):
    found = []
    for on in ("false", "true"):
        run = tmp_path / on
        shutil.copytree(made_run, run)
        found.append(
            lines(train(run, recipe_for(run, train__max_steps=3, train__gradient_checkpointing=on)).parent)
        )
    for a, b in zip(*found, strict=True):
        assert a == pytest.approx(b, abs=1e-5, rel=1e-5)


def test_two_runs_of_the_same_settings_are_refused(run):
    recipe = recipe_for(run, train__max_steps=2)
    folder = train(run, recipe).parent
    (folder / "manifest.json").unlink()
    with (
        open_store(folder).lock("trainer run"),
        pytest.raises(UserError, match=r"another `trainer run`.*is at work"),
    ):
        train(run, recipe)
    shutil.rmtree(folder / "checkpoint-2")
    assert train(run, recipe).exists()


def test_a_finished_run_whose_policy_is_gone_is_run_again(run):
    recipe = recipe_for(run, train__max_steps=2)
    last = train(run, recipe)
    shutil.rmtree(last)
    assert train(run, recipe) == last and last.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_made_again(run, name, capsys):
    recipe = recipe_for(run, train__max_steps=6)
    last = train(run, recipe)
    whole = tree(last.parent)
    (last / name).write_bytes(b"{")
    capsys.readouterr()
    train(run, recipe)
    said = f"checkpoint-6 is damaged: {name} is not as it was written"
    found = capsys.readouterr().out
    assert said in found and "trained again from step 3 on" in found
    assert tree(last.parent) == whole


def as_before_digests(checkpoint_folder):
    """A checkpoint as it was made before its state held digests."""
    state = json.loads((checkpoint_folder / "state.json").read_bytes())
    for key in ("sha256", "files"):
        del state[key]
    (checkpoint_folder / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True))


def test_checkpoints_from_before_there_were_digests_are_used(run, capsys):
    recipe = recipe_for(run, train__max_steps=6)
    last = train(run, recipe)
    weights = (last / "model.safetensors").read_bytes()
    for step in (3, 6):
        as_before_digests(last.parent / f"checkpoint-{step}")
    manifest = json.loads((last.parent / "manifest.json").read_bytes())
    for key in ("sha256", "record"):
        del manifest[key]
    (last.parent / "manifest.json").write_bytes(json_bytes(manifest))
    before = tree(run)
    train(run, recipe)
    assert "finished already" in capsys.readouterr().out and tree(run) == before
    # Damage is told by the digest in the manifest, and the one before is gone on from.
    flipped = bytearray(weights)
    flipped[-5] ^= 1
    (last / "model.safetensors").write_bytes(flipped)
    train(run, recipe)
    assert "checkpoint-6 is damaged: its weights are not those" in capsys.readouterr().out
    assert (last / "model.safetensors").read_bytes() == weights


def variant(model_path, made, tmp_path, name, **values):
    """A run on a model whose json file `name` has other values."""
    own, path = tmp_path / "model", tmp_path / "run"
    shutil.copytree(model_path, own)
    value = json.loads((own / name).read_text()) if (own / name).exists() else {}
    (own / name).write_text(json.dumps(value | values))
    command(
        "engine",
        "precompute",
        RECIPE,
        "-o",
        path,
        *settings(prompts__source=made, prompts__shards=2, model__name=own),
    )
    return path, own


def test_a_generation_config_that_cannot_be_saved_is_copied(model_path, pairs_file, tmp_path):
    run, own = variant(
        model_path,
        pairs_file,
        tmp_path,
        "generation_config.json",
        temperature=0.9,
        top_p=0.6,
        do_sample=False,
    )
    last = train(run, recipe_for(run, train__max_steps=1))
    assert (last / "generation_config.json").read_bytes() == (own / "generation_config.json").read_bytes()


def test_dropout_stays_asleep_under_gradient_checkpointing(model_path, pairs_file, tmp_path, capfd):
    run, _ = variant(model_path, pairs_file, tmp_path, "config.json", attention_dropout=0.3)
    train(run, recipe_for(run, train__max_steps=1, train__gradient_checkpointing="true"))
    assert "step 0: loss 0.693147" in capfd.readouterr().out


def test_settings_that_are_not_the_trainers_are_refused(run):
    said = command("trainer", "run", RECIPE, "-o", run, "--set", "logprobs.max_length=100", code=1).stderr
    assert "--set logprobs.max_length=100 is not the trainer's" in said


def test_tensorboard_has_the_curves(run):
    pytest.importorskip("tensorboard")
    last = train(run, recipe_for(run, train__max_steps=2, train__tensorboard="true"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(last.parent / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("rewards/margins")] == [1, 2]


def test_every_loss_trains_from_one_cache_and_recomputes_nothing(rich_run, tmp_path, capsys):
    from trainer.losses import NAMES

    run = tmp_path / "run"
    shutil.copytree(rich_run, run)
    before, pairs = tree(run), next(run.glob("pairs-*")).name
    made = load(run / "recipe.toml").sections
    for settings_of in [{"loss": name} for name in NAMES] + [
        {"loss": "rpo", "rpo.y0": "baseline"},
        {"loss": "score_margin", "score_margin.scorer": "given"},
    ]:
        given = load(
            run / "recipe.toml",
            [f"train.{name}={value}" for name, value in {**settings_of, "max_steps": 2}.items()],
        )
        last = train(run, type(given)(made | {"train": given.section("train")}, 0))
        found = lines(last.parent)
        assert all(np.isfinite(value) for row in found for value in row.values()) and found[-1]["step"] == 2
        assert f"{settings_of['loss']} on {pairs}" in capsys.readouterr().out
    after = tree(run)
    assert {name: data for name, data in after.items() if not name.startswith("train-")} == before
    assert len(list(run.glob("train-*"))) == len(NAMES) + 2


def test_a_loss_that_lacks_something_is_refused_before_the_model_loads(run, model_path, monkeypatch):
    monkeypatch.setattr("trainer.starting.open_policy", lambda *_: pytest.fail("the model was loaded"))
    said = (
        r"train\.loss = sr_dpo needs log-probs under the quality prompt .*"
        r'contexts = \["plain", "quality"\] in \[logprobs\]'
    )
    with pytest.raises(UserError, match=said):
        train(run, recipe_for(run, train__loss="sr_dpo"))


@pytest.mark.parametrize(
    "more", [{"dtype": "bfloat16", "accept_other_dtype": "true"}, {"gradient_checkpointing": "true"}]
)
def test_the_live_refinement_leaves_the_gradients_alone_in_other_ways_to_train(more, rich_run, tmp_path):
    """A forward without gradient before one with it, inside one autocast.

    Some versions of torch then forget the second one's gradients."""
    run = tmp_path / "run"
    shutil.copytree(rich_run, run)
    given = load(
        run / "recipe.toml",
        [f"train.{name}={value}" for name, value in {"loss": "sr_dpo", "max_steps": 12, **more}.items()],
    )
    found = lines(train(run, given).parent)
    norms = [row["grad_norm"] for row in found if "grad_norm" in row]
    evals = [row["eval_loss"] for row in found if "eval_loss" in row]
    assert min(norms) > 0 and evals[-1] < evals[0]


def test_looking_ahead_is_another_run_and_not_looking_ahead_is_no_fact(run):
    """Runs from before there was the key keep their folders."""
    kept = [
        json.loads(
            (train(run, recipe_for(run, train__max_steps=1, **more)).parent / "facts.json").read_text()
        )["train"]
        for more in ({}, {"train__look_ahead": 4})
    ]
    assert "look_ahead" not in kept[0] and kept[1] == kept[0] | {"look_ahead": 4}
