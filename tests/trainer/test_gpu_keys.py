"""train.compile and train.deterministic, which are for a GPU and work on a CPU too."""

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.llama import modeling_llama

from schemas.forward import compiled
from schemas.forward.compiled import is_wanted
from tests.trainer.test_train import lines, recipe_for
from tests.trainer.test_train import run as run  # the fixture
from trainer.train import train


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    rotary = modeling_llama.apply_rotary_pos_emb
    fills = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fills
    modeling_llama.apply_rotary_pos_emb = rotary


def trained(run, **more):
    """The losses and the weights of two steps, begun anew: the keys are no part of the folder's name."""
    last = train(run, recipe_for(run, train__max_steps=2, **more), resume=False)
    return [row.get("loss") for row in lines(last.parent)], load_file(last / "model.safetensors")


def check_same(first, second):
    """Losses and weights agree up to rounding."""
    assert second[0] == pytest.approx(first[0], abs=1e-5)
    for name, weight in first[1].items():
        torch.testing.assert_close(second[1][name], weight, atol=1e-4, rtol=0, msg=name)


def test_compiling_is_for_a_gpu_unless_the_recipe_says_so():
    assert is_wanted("auto", "cuda") and not is_wanted("auto", "cpu")
    assert is_wanted("true", "cpu") and not is_wanted("false", "cuda")


def test_both_keys_reach_the_training(run, monkeypatch):
    """With a backend that runs the graphs as they are: what a compiler makes of them is tried elsewhere."""
    graphs = []

    def plain(graph, inputs):
        graphs.append(torch.are_deterministic_algorithms_enabled())
        return graph.forward

    monkeypatch.setattr(compiled, "_backend", plain)
    first = trained(run)
    assert not graphs
    second = trained(run, train__compile="true", train__deterministic="true")
    assert graphs and all(graphs)
    check_same(first, second)


@pytest.mark.long
def test_a_compiled_training_is_the_eager_one(run, capfd):
    first = trained(run)
    second = trained(run, train__compile="true")
    assert capfd.readouterr().out.count("step 0: loss 0.693147 (law: 0.693147)") == 2
    check_same(first, second)
