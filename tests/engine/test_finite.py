"""No number that is not finite leaves a model, whichever verb was asked and wherever the NaN is."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.models import Sample
from engine.models.finite import check_logps, check_samples
from engine.models.hf import HF
from engine.models.spec import ModelSpec, resolve
from schemas.errors import UserError
from schemas.sections import Model, Sampling
from tests.conftest import RECIPE, command, settings
from tests.schemas.models import copy_of

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def own(model_path, tmp_path):
    return copy_of(model_path, tmp_path / "model")


def spoil(path, name, row, value):
    tensors = load_file(path / "model.safetensors")
    tensors[name][row] = value
    save_file(tensors, path / "model.safetensors", {"format": "pt"})


def resolved(path, dtype="float32"):
    return resolve(ModelSpec(Model(name=str(path), dtype=dtype), "hf"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 3])
def test_a_log_prob_that_is_not_finite_is_refused_wherever_it_is(model_path, value, place):
    model = resolved(model_path)
    logps = np.full(4, -1.5, np.float32)
    check_logps([[logps], []], model)
    check_samples([[Sample([1, 2, 3, 4], logps, "stop")]], model)
    logps[place] = value
    with pytest.raises(UserError, match=r"model in .*tiny gives log-probs that are not finite"):
        check_logps([[np.zeros(2, np.float32)], [np.zeros(1, np.float32), logps]], model)
    with pytest.raises(UserError, match="not finite"):
        check_samples([[Sample([1, 2, 3, 4], logps, "stop")]], model)


@pytest.mark.parametrize("name", ["model.layers.0.mlp.down_proj.weight", "model.norm.weight", EMBEDDING])
def test_weights_that_are_nan_are_named_when_the_model_is_loaded(own, name):
    spoil(own, name, 0 if name != EMBEDDING else slice(None), float("nan"))
    with pytest.raises(UserError, match=rf"model in {own} .*not finite.*NaN.*{name}.*get the folder again"):
        HF(resolved(own), "cpu").logprobs([[1]], [[[2]]])


def test_a_type_that_overflows_is_told_from_bad_weights(own):
    tensors = load_file(own / "model.safetensors")
    for name in tensors:
        if name.endswith(("up_proj.weight", "down_proj.weight", "gate_proj.weight")):
            tensors[name] = tensors[name] * 3000
    save_file(tensors, own / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"not finite, though its weights are: float16 overflows; .*bfloat16"):
        HF(resolved(own, "float16"), "cpu").logprobs([[1, 2]], [[[2, 3]]])


def test_a_single_bad_row_that_loading_does_not_meet_stops_both_verbs(own):
    """An embedding row of its own, in an untied model: only prompts that hold its token come to it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(own)
    rows = model.config.vocab_size
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(own)
    draw = torch.Generator().manual_seed(7)
    met = set(torch.randint(0, rows, (16,), generator=draw).tolist())
    bad = next(token for token in range(rows) if token not in met)
    spoil(own, EMBEDDING, bad, float("nan"))
    opened = HF(resolved(own), "cpu")
    fine = next(token for token in range(rows) if token != bad)
    assert opened.logprobs([[fine]], [[[fine]]])
    with pytest.raises(UserError, match=rf"{own} gives log-probs that are not finite"):
        opened.logprobs([[fine], [bad]], [[[fine]], [[fine, fine]]])
    with pytest.raises(UserError, match=rf"{own} gives log-probs that are not finite"):
        opened.generate([[fine, bad]], [[1]], Sampling(max_tokens=3))


def test_a_run_with_such_a_model_stops_and_keeps_nothing_of_it(own, pairs_file, tmp_path):
    spoil(own, "model.layers.1.mlp.down_proj.weight", (0, 0), float("nan"))
    run = tmp_path / "run"
    words = settings(prompts__source=pairs_file, prompts__shards=1, model__name=own)
    done = command("engine", "precompute", RECIPE, "-o", run, *words, code=1)
    assert "not finite" in done.stderr and str(own) in done.stderr and "Traceback" not in done.stderr
    assert not list(run.rglob("*.logprobs.parquet")) and not list(run.rglob("*.pairs.parquet"))
