"""`trainer merge` and `trainer eval` of an adapter; an adapter as the start of a whole run."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.commands.precompute import precompute
from engine.models.hf import HF
from engine.models.spec import ModelSpec, resolve
from engine.models.vllm.settings import engine_arguments
from schemas.checkpoints import state_bytes
from schemas.errors import UserError
from schemas.forward.load import read_weights
from schemas.identity import identify
from schemas.manifest import FACTS
from schemas.recipe import load
from schemas.sections import Model
from schemas.store import open_store
from tests.adapters import logps_by, write_adapter
from tests.conftest import preferences, tree
from tests.schemas.models import change_json, change_weights, copy_of
from trainer.cli import main
from trainer.evaluate import evaluate, folder_of, recipe_of
from trainer.merge import merge
from trainer.train import train

PROMPT, RESPONSE = [2, 8, 3], [11, 7, 40, 2]
RECIPE_TEXT = """
[model]
[prompts]
shards = 1
[given]
[logprobs]
[pairs]
test_share = 0.3
[train]
max_steps = 1
batch_size = 4
"""


@pytest.fixture(scope="module")
def written(model_path, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters") / "lora"
    return write_adapter(model_path, path, use_rslora=True), path


@pytest.fixture
def own(written, tmp_path):
    return copy_of(written[1], tmp_path / "adapter")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in preferences(3, 13)))
    (folder / "own.toml").write_text(RECIPE_TEXT)
    return lambda model: load(
        folder / "own.toml", (f"prompts.source={folder / 'rows.jsonl'}", f"model.name={model}")
    )


@pytest.fixture(scope="module")
def run_of_base(recipe, model_path, tmp_path_factory):
    """A finished run of the base; evaluations leave it as it is."""
    run = open_store(tmp_path_factory.mktemp("runs") / "of-base")
    precompute(run, recipe(model_path), 1)
    return run


def test_it_is_an_ordinary_model_with_the_adapters_log_probs(written, own, model_path, tmp_path):
    adapted, _ = written
    merged = tmp_path / "below" / "merged"
    said = CliRunner().invoke(main, ["merge", str(own), "-o", str(merged)], catch_exceptions=False)
    assert f"{merged}: {own} on {model_path}, merged, float32" in " ".join(said.output.split())

    opened = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).eval()
    wanted = logps_by(adapted, PROMPT, RESPONSE)
    torch.testing.assert_close(logps_by(opened, PROMPT, RESPONSE), wanted, atol=1e-5, rtol=0)
    both: list[np.ndarray] = []
    for path in (own, merged):
        model = HF(resolve(ModelSpec(Model(name=str(path)), "hf")), "cpu")
        both += model.logprobs([PROMPT], [[RESPONSE]])[0]
    assert np.array_equal(both[0], both[1]), "one arithmetic"

    identity = identify(Model(name=str(merged)))
    before = identify(Model(name=str(model_path)))
    assert (identity.tokenizer, identity.template) == (before.tokenizer, before.template)
    assert identity.config == before.config and identity.weights != before.weights
    assert AutoTokenizer.from_pretrained(merged).get_vocab()
    assert sorted(path.name for path in merged.iterdir()) == sorted(
        path.name for path in model_path.iterdir()
    )
    assert merge(own, tmp_path / "again") and tree(tmp_path / "again") == tree(merged)


@pytest.mark.parametrize(("asked", "dtype"), [("auto", torch.bfloat16), ("float32", torch.float32)])
def test_its_dtype_is_the_bases_or_the_one_asked_for(own, model_path, tmp_path, asked, dtype):
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16)
    copy_of(model_path, tmp_path / "base")
    base.save_pretrained(tmp_path / "base")
    change_json(own / "adapter_config.json", base_model_name_or_path="../base")
    merge(own, tmp_path / "merged", asked)
    assert {weight.dtype for weight in load_file(tmp_path / "merged" / "model.safetensors").values()} == {
        dtype
    }
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=dtype)
    same = read_weights(AutoModelForCausalLM, own, dtype, "cpu").state_dict()
    assert all(torch.equal(weight, same[name]) for name, weight in opened.state_dict().items())


def test_nothing_is_overwritten_and_nothing_half_made(own, model_path, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match=r"there: something is there already; name a folder"):
        merge(own, tmp_path / "there")
    with pytest.raises(UserError, match=r"is no adapter .*nothing to merge"):
        merge(model_path, tmp_path / "merged")
    with pytest.raises(UserError, match=r"is no model folder .*and no train folder"):
        merge(tmp_path / "there", tmp_path / "merged")
    with pytest.raises(UserError, match=r"model 'nobody/nothing' is no folder here"):
        merge(tmp_path.__class__("nobody/nothing"), tmp_path / "merged")

    def fail(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.merge.copy_beside", fail)
    with pytest.raises(UserError, match=r"No space left on device.*name another folder with -o"):
        merge(own, tmp_path / "merged")
    assert not (tmp_path / "merged").exists() and not list(tmp_path.glob(".*"))


def test_the_remedies_for_an_adapter_on_an_adapter_and_for_vllm(written, own, model_path, tmp_path):
    write_adapter(model_path, tmp_path / "second", seed=1)
    change_json(tmp_path / "second" / "adapter_config.json", base_model_name_or_path="../adapter")
    with pytest.raises(UserError, match=rf"adapter itself: `trainer merge {own} -o FOLDER`, and name that"):
        identify(Model(name=str(tmp_path / "second")))
    merge(own, tmp_path / "first")
    change_json(tmp_path / "second" / "adapter_config.json", base_model_name_or_path="../first")
    merge(tmp_path / "second", tmp_path / "both")
    model = resolve(ModelSpec(Model(name=str(tmp_path / "both")), "vllm"))
    assert engine_arguments(model, "cpu")["model"] == str(tmp_path / "both")

    name = "model.layers.1.mlp.up_proj.weight"
    base, one, two = (
        load_file(path / "model.safetensors")[name]
        for path in (model_path, tmp_path / "first", tmp_path / "both")
    )
    alone = write_adapter(model_path, tmp_path / "again", seed=1).merge_and_unload().get_parameter(name)
    torch.testing.assert_close(two - one, alone - base, atol=1e-6, rtol=0)


def test_a_base_that_is_a_checkpoint_and_a_tokenizer_of_the_adapters_own(own, model_path, tmp_path):
    base = copy_of(model_path, tmp_path / "base")
    (base / "state.json").write_bytes(state_bytes({"step": 1}, base))
    change_json(own / "adapter_config.json", base_model_name_or_path="../base")
    merge(own, tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(model_path / name, own / name)
    change_json(own / "tokenizer_config.json", padding_side="left")
    (own / "state.json").write_bytes(state_bytes({"step": 1}, own))
    merge(own, tmp_path / "of-own")

    for folder, tokenizer in (("merged", base), ("of-own", own)):
        names = [path.name for path in (tmp_path / folder).iterdir()]
        assert "state.json" not in names and "adapter_config.json" not in names
        found, given = identify(Model(name=str(tmp_path / folder))), identify(Model(name=str(own)))
        assert found.template == given.template
        assert (found.tokenizer == given.tokenizer) == (tokenizer == own)
        assert AutoTokenizer.from_pretrained(tmp_path / folder).padding_side == (
            "left" if tokenizer == own else AutoTokenizer.from_pretrained(model_path).padding_side
        )


def test_a_train_folder_stands_for_its_last_checkpoint_and_damage_is_seen(own, tmp_path):
    folder = tmp_path / "train-0123456789ab"
    folder.mkdir()
    (folder / FACTS).write_text("{}")
    for step in (1, 2):
        checkpoint = copy_of(own, folder / f"checkpoint-{step}")
        if step == 2:
            change_weights(checkpoint / "adapter_model.safetensors")
        (checkpoint / "state.json").write_bytes(state_bytes({"step": step}, checkpoint))
    last = folder / "checkpoint-2"
    assert folder_of(folder) == last
    merge(folder, tmp_path / "merged")
    assert not (tmp_path / "merged" / "state.json").exists()
    merge(last, tmp_path / "of-last")
    assert tree(tmp_path / "merged") == tree(tmp_path / "of-last")

    change_weights(last / "adapter_model.safetensors")
    for look in (lambda: merge(folder, tmp_path / "other"), lambda: identify(Model(name=str(last)))):
        with pytest.raises(UserError, match=r"checkpoint-2 is damaged: adapter_model.safetensors is not as"):
            look()


def test_an_adapter_is_a_reference_and_a_policy(own, recipe, run_of_base, tmp_path):
    """Log-probs of it, training from it, and its measure against its base."""
    of_adapter = open_store(tmp_path / "of-adapter")
    precompute(of_adapter, recipe(own), 1)
    last = train(of_adapter, recipe(own))  # step 0 proves that trainer and engine open the same model
    first = json.loads((last.parent / "metrics.jsonl").read_text().splitlines()[0])
    assert first["eval_loss"] == pytest.approx(np.log(2), abs=1e-5)
    opened = identify(Model(name=str(last)))
    assert (opened.tokenizer, opened.template) == (
        identify(Model(name=str(own))).tokenizer,
        identify(Model(name=str(own))).template,
    )

    with pytest.raises(UserError, match="the cache was made with other weights"):
        train(run_of_base, recipe(own))
    merge(own, tmp_path / "merged")
    values = evaluate(run_of_base, recipe_of(run_of_base, own, ()), folder_of(own))
    assert values == evaluate(run_of_base, recipe_of(run_of_base, own, ()), tmp_path / "merged")
    assert abs(values["mean_logratio"]) > 1e-3


def test_eval_sees_a_damaged_base(own, model_path, run_of_base, tmp_path):
    run = run_of_base
    base = copy_of(model_path, tmp_path / "base")
    (base / "optimizer.safetensors").write_bytes(b"of a checkpoint")
    (base / "state.json").write_bytes(state_bytes({"step": 1}, base))
    change_json(own / "adapter_config.json", base_model_name_or_path="../base")
    assert evaluate(run, recipe_of(run, own, ()), own)["pairs"]
    change_weights(base / "model.safetensors")
    with pytest.raises(UserError, match=r"base is damaged: model.safetensors is not as it was written"):
        evaluate(run, recipe_of(run, own, ()), own)
    shutil.rmtree(base)
    with pytest.raises(UserError, match=r"is an adapter \(LORA\) on ../base, which is not there"):
        evaluate(run, recipe_of(run, own, ()), own)
