"""[train.lora]: step 0 is the base in every arithmetic, PEFT opens what is saved, and a run goes on to the
same bytes."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import import_utils
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from engine.commands.precompute import precompute
from engine.models.spec import backend_of, spec_on
from schemas.adapters import is_adapter
from schemas.errors import UserError
from schemas.forward import quantized
from schemas.forward.layout import pack
from schemas.forward.logps import decoder_and_head, hidden_states
from schemas.recipe import load
from schemas.store import open_store
from tests.conftest import preferences, tree
from trainer import evaluate, train
from trainer.checkpoint import steps

RECIPE = """
[model]
name = "{model}"
dtype = "{dtype}"
quantization = "{quantization}"
[prompts]
source = "{rows}"
shards = 1
[given]
[logprobs]
[pairs]
test_share = 0.2
[train]
batch_size = 4
learning_rate = 3e-3
micro_batch_tokens = 300
max_steps = 4
save_every = 2
keep = 0
"""
ARITHMETICS = {
    "float32": ("float32", "none"),
    "bfloat16": ("bfloat16", "none"),
    "nf4": ("float32", "nf4"),
    "nf4-bfloat16": ("bfloat16", "nf4"),
}
IDS = torch.tensor([[3, 99, 7, 250, 41, 600, 12]])


@pytest.fixture(scope="module")
def caches(tmp_path_factory, model_path):
    """A cache of each arithmetic, made when it is asked for: its folder and its recipe."""
    folder = tmp_path_factory.mktemp("lora")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in preferences(6, 15)))
    made = {}

    def get(name):
        if name not in made:
            dtype, quantization = ARITHMETICS[name]
            text = RECIPE.format(model=model_path, rows=rows, dtype=dtype, quantization=quantization)
            (folder / f"{name}.toml").write_text(text)
            recipe = load(folder / f"{name}.toml")
            precompute(folder / name, recipe, 1)
            made[name] = (folder / name, recipe)
        return made[name]

    return get


@pytest.fixture
def cache(caches, tmp_path):
    """A cache of float32 that a test may train in."""
    run, recipe = caches("float32")
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run", recipe


def with_lora(recipe, lora, **keys):
    """The recipe with these keys of [train.lora], if any, and of [train]."""
    config = recipe.section("train")
    options = {} if lora is None else {"lora": lora}
    changed = replace(config, options=options, **keys)
    return type(recipe)(recipe.sections | {"train": changed}, recipe.seed)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    return [row["loss"] for row in lines(folder) if "loss" in row]


@pytest.mark.parametrize(
    "name", ["float32", "bfloat16", "nf4", pytest.param("nf4-bfloat16", marks=pytest.mark.long)]
)
def test_step_0_is_the_base(caches, name):
    """With an adapter of full rank, whose B is 0 at first, and without one from the same cache."""
    run, recipe = caches(name)
    last = train.train(run, with_lora(recipe, {"r": 48}, max_steps=2))
    first = lines(last.parent)[0]
    assert first["step"] == 0
    assert first["eval_loss"] == pytest.approx(np.log(2), abs=1e-3)
    assert first["eval_rewards/margins"] == pytest.approx(0, abs=1e-3)
    found = losses(last.parent)
    assert found[0] == pytest.approx(np.log(2), abs=1e-3) and found[1] < 0.69
    whole = with_lora(recipe, None, max_steps=1)
    if ARITHMETICS[name][1] == "nf4":
        with pytest.raises(UserError, match="cannot be trained"):
            train.train(run, whole)
        return
    assert losses(train.train(run, whole).parent) == pytest.approx([np.log(2)], abs=1e-3)


KINDS = {
    "all-linear": {"r": 5},
    "head": {"r": 3, "target_modules": ["q_proj", "lm_head"], "use_rslora": True},
    "saved": {"r": 3, "target_modules": ["v_proj"], "modules_to_save": ["lm_head"], "bias": "all"},
    "dora": {"r": 3, "use_dora": True, "alpha": 5},
}


def next_token_logits(model):
    """(T - 1, V) by the packed pass: all tokens but the first one are a response."""
    prompt, *response = IDS[0].tolist()
    decoder, head = decoder_and_head(model)
    return head.logits(hidden_states(decoder, pack([([prompt], [response])])))


@pytest.mark.parametrize("kind", KINDS)
def test_peft_opens_it(cache, kind, monkeypatch, model_path):
    """The logits of the policy, as it was in the trainer's memory, and of the folder in PEFT."""
    from peft import PeftModel

    kept = {}
    save = train._save

    def saving(job, state, step, ranks, **more):
        kept[step] = state.parallel.look(next_token_logits)
        save(job, state, step, ranks, **more)

    monkeypatch.setattr(train, "_save", saving)
    run, recipe = cache
    last = train.train(run, with_lora(recipe, KINDS[kind]))
    assert not list(last.glob("model*")) and not (last / "config.json").exists()
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    with torch.no_grad():
        before = base(IDS).logits[0, :-1]
        after = PeftModel.from_pretrained(base, last)(IDS).logits[0, :-1]
    assert (after - kept[4]).abs().max() < 1e-5 < 1e-2 < (after - before).abs().max()
    config = json.loads((last / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model_path)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert load_file(last / "adapter_model.safetensors").keys()


@pytest.mark.parametrize("more", [{"gradient_checkpointing": "true"}, {"save_dtype": "bfloat16"}])
def test_a_run_that_stopped_ends_in_the_same_bytes(cache, more):
    """Dropout is drawn anew by the step, not by what was drawn before."""
    run, recipe = cache
    asked = with_lora(recipe, {"r": 4, "dropout": 0.3}, **more)
    last = train.train(run, asked)
    expected = tree(last.parent)
    shutil.rmtree(last)
    (last.parent / "manifest.json").unlink()
    assert steps(open_store(last.parent)) == [2]
    assert train.train(run, asked) == last
    assert tree(last.parent) == expected


def test_dropout_is_awake_in_training_alone(cache):
    run, recipe = cache
    dropped = train.train(run, with_lora(recipe, {"r": 4, "dropout": 0.5})).parent
    plain = train.train(run, with_lora(recipe, {"r": 4})).parent
    dropped_first, plain_first = lines(dropped)[:2], lines(plain)[:2]
    assert dropped_first[0] == plain_first[0]  # the evaluation before any step
    assert dropped_first[1]["loss"] == plain_first[1]["loss"]  # B is 0
    assert dropped_first[1]["grad_norm"] != pytest.approx(plain_first[1]["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("name", [pytest.param("bfloat16", marks=pytest.mark.long), "nf4"])
def test_evaluation_of_it_gives_what_training_gave(caches, name):
    run, recipe = caches(name)
    asked = with_lora(recipe, {"r": 4, "use_dora": name == "bfloat16"})
    last = train.train(run, asked)
    policy = evaluate.folder_of(last.parent)
    assert policy == last
    own = evaluate.recipe_of(open_store(run), policy, [])
    values = evaluate.evaluate(open_store(run), own, policy)
    for row in lines(last.parent)[-1:]:
        assert values["loss"] == row["eval_loss"]
        assert values["rewards/margins"] == row["eval_rewards/margins"]
    pairs = list(evaluate.by_pair(open_store(run), own, policy))
    assert len({pair["pair_id"] for pair in pairs}) == len(pairs) == values["pairs"]
    for side in ("chosen", "rejected"):
        assert np.mean([pair[side] for pair in pairs]) == pytest.approx(values[f"drift/{side}"], rel=1e-6)
    assert train.train(run, asked) == last  # finished already


def test_a_damaged_adapter_is_made_again(cache):
    run, recipe = cache
    last = train.train(run, with_lora(recipe, {"r": 4}))
    whole = (last / "adapter_model.safetensors").read_bytes()
    (last / "adapter_model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is not as it was written"):
        evaluate.evaluate(open_store(run), with_lora(recipe, {"r": 4}), last)
    train.train(run, with_lora(recipe, {"r": 4}))
    assert (last / "adapter_model.safetensors").read_bytes() == whole


def trained(run, recipe):
    """On a rank: the losses, the norms and where it ends."""
    last = train.train(run, recipe)
    rows = [row for row in lines(last.parent) if "loss" in row]
    return [row["loss"] for row in rows], [row["grad_norm"] for row in rows], last


@pytest.mark.parametrize("parallel", [pytest.param("ddp", marks=pytest.mark.long), "fsdp"])
def test_ranks_change_nothing(cache, two_ranks, parallel, tmp_path):
    """DDP and FSDP2 on two ranks, and what they saved gone on with by one rank alone."""
    run, recipe = cache
    asked = with_lora(recipe, {"r": 5, "use_dora": True, "modules_to_save": ["lm_head"]}, parallel=parallel)
    alone = tmp_path / "alone"
    shutil.copytree(run, alone)
    expected, norms, single = trained(alone, asked)
    shared, shared_norms, last = two_ranks.run(trained, run, asked)[0]
    assert shared == pytest.approx(expected, abs=1e-5) and shared_norms == pytest.approx(norms, abs=1e-4)
    whole = load_file(single / "adapter_model.safetensors")
    for name, tensor in load_file(last / "adapter_model.safetensors").items():
        assert torch.allclose(tensor, whole[name], atol=1e-4), name
    shutil.rmtree(last)
    (last.parent / "manifest.json").unlink()
    assert trained(run, asked)[0] == pytest.approx(expected, abs=1e-5)


def test_what_cannot_work_is_refused(caches, monkeypatch):
    run, recipe = caches("float32")
    with pytest.raises(UserError, match=r"modules of it are .*q_proj"):
        train.train(run, with_lora(recipe, {"target_modules": ["nothing"]}))
    half = {"target_modules": ["q_proj", "proj"]}
    with pytest.raises(UserError, match=r"named proj, which target_modules .* modules of it are .*q_proj"):
        train.train(run, with_lora(recipe, half))
    with pytest.raises(UserError, match=r"named head, which modules_to_save .* modules of it are .*lm_head"):
        train.train(run, with_lora(recipe, {"modules_to_save": ["lm_head", "head"]}))
    with pytest.raises(UserError, match=r"\[train\.lora\].*rank"):
        train.train(run, with_lora(recipe, {"rank": 8}))
    quantized = replace(recipe.section("model"), quantization="nf4")
    other = type(recipe)(recipe.sections | {"model": quantized}, recipe.seed)
    with pytest.raises(UserError, match=r'made with model\.quantization = "none"'):
        train.train(run, with_lora(other, {}))
    with pytest.raises(UserError, match=r'train\.parallel = "ddp"'):
        train.train(run, with_lora(other, {}, parallel="fsdp"))
    with pytest.raises(UserError, match=r'set backend = "hf" in \[model\]'):
        spec_on(quantized, "vllm")
    assert backend_of(quantized) == "hf"
    for package in ("peft", "bitsandbytes"):
        with monkeypatch.context() as patch:
            patch.setattr("importlib.util.find_spec", lambda name, gone=package: None if name == gone else 1)
            with pytest.raises(UserError, match=rf"pip install \"prefmill\[{package}\]\""):
                train.train(run, with_lora(other, {}))


def test_a_bitsandbytes_that_fails_matters_to_4_bits_alone(cache, tmp_path, monkeypatch):
    run, recipe = cache
    (tmp_path / "bitsandbytes").mkdir()
    (tmp_path / "bitsandbytes" / "__init__.py").write_text("raise OSError('libcudart.so: not found')")
    for name in list(sys.modules):
        if name.partition(".")[0] == "bitsandbytes":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    asked_once = (quantized._failure, import_utils.is_bnb_available, import_utils.is_bnb_4bit_available)
    for function in asked_once:
        function.cache_clear()
    try:
        with pytest.raises(UserError, match=r"OSError: libcudart.so: not found; install .*\"none\""):
            quantized.options("nf4", torch.float32, "cpu")
        last = train.train(run, with_lora(recipe, {}, max_steps=1))
        assert is_adapter(last)
    finally:
        for function in asked_once:
            function.cache_clear()
