"""Compiled regions: no bit of the forward pass changes, gradients are eager's, parameters stay in place."""

import copy
import sys

import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers.models.llama import modeling_llama

from schemas.forward import compiled
from schemas.forward.attention import PACKED
from schemas.forward.compiled import compile_regions
from schemas.forward.layout import pack
from schemas.forward.load import prepare
from schemas.forward.logps import decoder_and_head, token_logps
from tests.schemas.test_forward import FAMILIES, build, groups


@pytest.fixture(autouse=True)
def own_rotary():
    """The functions of transformers' modules that are compiled in place, as they were."""
    before = {}
    for family in FAMILIES.values():
        name = f"transformers.models.{family.model_type}.modeling_{family.model_type}"
        module = sys.modules.get(name)
        if hasattr(module, "apply_rotary_pos_emb"):
            before[module] = module.apply_rotary_pos_emb
    yield
    for module, function in before.items():
        module.apply_rotary_pos_emb = function


class Cast(nn.Module):
    """A policy with float32 weights whose forward runs in another dtype."""

    def __init__(self, model, dtype):
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self):
        weights = {f"model.{name}": weight.to(self.dtype) for name, weight in self.model.named_parameters()}
        return functional_call(Inner(self.model), weights)


class Inner(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self):
        decoder, head = decoder_and_head(self.model)
        return token_logps(decoder, head, pack(groups()))


def values_and_gradients(policy):
    """(N,) log-probs, and the gradient of their weighted sum by name."""
    policy.zero_grad()
    logps = policy()
    weights = torch.linspace(-1, 1, len(logps))
    (logps * weights).sum().backward()
    gradients = {}
    for name, parameter in policy.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad.clone()
    return logps.detach(), gradients


def check_same(before, after, share):
    """Values are equal bit for bit, gradients within a share of the largest."""
    assert torch.equal(before[0], after[0])
    assert before[1].keys() == after[1].keys()
    for name, gradient in before[1].items():
        allowed = share * gradient.abs().max().item() + 1e-9
        torch.testing.assert_close(after[1][name], gradient, atol=allowed, rtol=0, msg=name)


@pytest.mark.long
@pytest.mark.parametrize(("family", "expected"), [("llama", 8), ("qwen3", 12), ("gemma2", 12)])
def test_a_forward_in_bfloat16_over_float32_weights_keeps_every_bit(family, expected):
    """Two layers: an MLP and two to six norms each, the last norm, and the rotary function."""
    config = copy.deepcopy(FAMILIES[family])
    config.initializer_range = 0.2
    policy = Cast(prepare(build(config)), torch.bfloat16)
    names = list(policy.state_dict())
    before = values_and_gradients(policy)
    assert compile_regions(policy.model, torch.bfloat16) == expected
    check_same(before, values_and_gradients(policy), share=0.03)
    with torch.no_grad():
        assert torch.equal(policy(), before[0])  # as in the engine, where no gradient is made
    assert list(policy.state_dict()) == names
    model = prepare(policy.model)
    assert model.config._attn_implementation == PACKED


@pytest.mark.long
def test_an_adapter_in_the_mlp_is_compiled_with_it():
    peft = pytest.importorskip("peft")
    model = prepare(build(FAMILIES["llama"], torch.bfloat16))
    config = peft.LoraConfig(r=3, target_modules=["gate_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(3)
    adapted = peft.get_peft_model(model, config)
    policy = Inner(adapted.get_base_model())
    before = values_and_gradients(policy)
    assert before[1] and all("lora" in name for name in before[1])
    assert compile_regions(adapted.get_base_model()) == 8
    check_same(before, values_and_gradients(policy), share=0.03)


@pytest.mark.long
def test_layers_whose_activations_are_made_again_are_compiled_too():
    model = prepare(build(FAMILIES["llama"]))
    policy = Inner(model)
    before = values_and_gradients(policy)
    compile_regions(model)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    after = values_and_gradients(policy)
    torch.testing.assert_close(after[0], before[0], atol=1e-5, rtol=0)
    for name, gradient in before[1].items():
        torch.testing.assert_close(after[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_without_a_compiler_it_stays_eager_and_says_so_once_a_kind(monkeypatch, caplog):
    def broken(graph, inputs):
        raise RuntimeError("no g++ here")

    monkeypatch.setattr(compiled, "_backend", broken)
    model = prepare(build(FAMILIES["llama"]))
    policy = Inner(model)
    before = values_and_gradients(policy)
    with caplog.at_level("WARNING", "prefmill"):
        assert compile_regions(model) == 0
    assert len(caplog.messages) == 3 and all("no g++ here" in message for message in caplog.messages)
    check_same(before, values_and_gradients(policy), share=0.0)


def test_what_would_change_a_bit_stays_eager(monkeypatch, caplog):
    """A backend that runs the graph and adds one unit in the last place to one number."""

    def off_by_one_bit(graph, inputs):
        def run(*args):
            outputs = graph(*args)
            result = outputs[0].clone()
            with torch.no_grad():
                result.view(-1)[7] += result.view(-1)[7] * 2**-7
            return (result, *outputs[1:])

        return run

    monkeypatch.setattr(compiled, "_backend", off_by_one_bit)
    rotary = modeling_llama.apply_rotary_pos_emb
    model = prepare(build(FAMILIES["llama"], torch.bfloat16))
    with caplog.at_level("WARNING", "prefmill"):
        assert compile_regions(model) == 0
    assert all("its numbers would change by" in message for message in caplog.messages)
    assert modeling_llama.apply_rotary_pos_emb is rotary
    assert all(module._compiled_call_impl is None for module in model.modules())


def test_what_is_right_is_compiled_in_place(monkeypatch):
    """With a backend that runs the graph as it is."""
    seen = []

    def plain(graph, inputs):
        seen.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled, "_backend", plain)
    model = prepare(build(FAMILIES["llama"], torch.bfloat16))
    policy = Inner(model)
    before = values_and_gradients(policy)
    assert compile_regions(model) == 8
    check_same(before, values_and_gradients(policy), share=0.0)
    assert seen and modeling_llama.apply_rotary_pos_emb._prefmill_compiled
    assert compile_regions(prepare(build(FAMILIES["llama"], torch.bfloat16))) == 7  # the function is by now


def test_the_mean_of_a_norm_has_its_gradient():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(torch.ops.prefmill.mean_of_last, x)
