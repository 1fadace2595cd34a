"""What the self-test lets pass is the model's own log-probs; what it does not is padded, or refused."""

import copy
import dataclasses

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconH1Config,
    GptOssConfig,
    JambaConfig,
    Llama4TextConfig,
    Mamba2Config,
    MambaConfig,
    Qwen2MoeConfig,
)

from schemas.errors import UserError
from schemas.forward import attention, selftest
from schemas.forward.attention import PACKED
from schemas.forward.load import load, prepare
from schemas.model_errors import usable
from schemas.tolerance import self_test_gaps, self_test_leak
from tests.schemas.test_forward import FAMILIES, SIZES, V, build, dense, groups, token_logps

STATES = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": None, "eos_token_id": 1}
# What the layers of each do that packing does not: sinks, a bias of the mask, states, chunks.
UNPACKED = {
    "gpt_oss": GptOssConfig(
        **SIZES, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=4
    ),
    "bloom": BloomConfig(
        vocab_size=V, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.0, attention_dropout=0.0
    ),
    "mamba": MambaConfig(**STATES, state_size=4),
    "mamba2": Mamba2Config(**STATES, state_size=8, num_heads=8, head_dim=8, n_groups=2, chunk_size=8),
    "falcon_h1": FalconH1Config(
        **SIZES, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8
    ),
    "jamba": JambaConfig(
        **SIZES,
        num_experts=2,
        num_experts_per_tok=1,
        mamba_d_state=4,
        attn_layer_period=2,
        attn_layer_offset=1,
    ),
    "llama4": Llama4TextConfig(
        **SIZES,
        intermediate_size_mlp=48,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
        attention_chunk_size=8,
    ),
}
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("family", UNPACKED)
def test_a_family_with_attention_of_its_own_loads_and_is_padded(family, tmp_path, caplog):
    """From a folder, as a user has it; the families that refuse SDPA with what they allow."""
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(UNPACKED[family]).save_pretrained(tmp_path)
    with caplog.at_level("WARNING", "prefmill"):
        model = load(tmp_path, torch.float32, "cpu")
    assert model.config._attn_implementation in ("eager", "sdpa")
    assert "padded instead" in caplog.text
    with torch.no_grad():
        got, want = token_logps(model, groups()), dense(model, groups())
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["gpt_oss", "mamba", "mamba2"])
def test_such_a_family_is_padded_in_bfloat16_too(family):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(UNPACKED[family]).bfloat16().eval()
    assert prepare(model).config._attn_implementation == "eager"


def lively(family, dtype):
    """A model whose attention prefers some tokens to others, as a trained one's does."""
    config = copy.deepcopy(FAMILIES[family])
    config.initializer_range = 0.2
    if family == "gemma2":
        config.attn_logit_softcapping = 0.3
    return build(config, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_model_is_packed_however_lively(family, dtype):
    assert prepare(lively(family, dtype)).config._attn_implementation == PACKED


def without(name):
    """The packed attention without one of the things that a layer asks of it."""
    real = attention.Options

    def options(*values):
        missing = {"scale": 1.0}.get(name)
        return dataclasses.replace(real(*values), **{name: missing})

    return options


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("family", "name"),
    [("llama", "scale"), ("gemma2", "softcap"), ("gemma2", "window"), ("mistral", "window")],
)
def test_a_pass_that_forgets_something_is_not_taken(family, name, dtype, monkeypatch):
    monkeypatch.setattr(attention, "Options", without(name))
    model = prepare(lively(family, dtype))
    assert model.config._attn_implementation == attention.own_attention(model)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pass_without_a_mask_is_not_taken(dtype, monkeypatch):
    def attend(query, key, value, options, layout):
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=options.scale)

    monkeypatch.setattr(attention, "attend", attend)
    for model in (build(FAMILIES["llama"], dtype), lively("llama", dtype)):
        assert prepare(model).config._attn_implementation == "sdpa"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("family", "name"), [("cohere", "scale"), ("granite", "divisor"), ("gemma2", "softcap")]
)
def test_a_model_with_an_unknown_head_is_refused(family, name, dtype, monkeypatch):
    real = selftest.decoder_and_head

    def forgetful(model):
        decoder, head = real(model)
        return decoder, dataclasses.replace(head, **{name: None})

    model = lively(family, dtype)
    monkeypatch.setattr(selftest, "decoder_and_head", forgetful)
    with pytest.raises(UserError, match=r"more than this pass knows.* differ from its own by .* on average"):
        prepare(model)


def test_a_model_that_caps_its_scores_is_judged_by_its_eager_attention():
    """transformers' sdpa forgets the cap: what is packed, padded or drawn must not."""
    model = lively("gemma2", torch.float32)
    model.config._attn_implementation = "eager"
    want = dense(model, groups())
    model.config._attn_implementation = "sdpa"
    assert (dense(model, groups()) - want).abs().max() > 1e-3
    got = token_logps(prepare(model), groups())
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=0)
    assert attention.own_attention(model) == "eager"


def test_a_window_that_stands_in_the_mask_alone_is_not_packed(caplog):
    """The probe is shorter than this window, so no number shows it."""
    config = Qwen2MoeConfig(
        **{**SIZES, "max_position_embeddings": 512},
        use_sliding_window=True,
        sliding_window=100,
        max_window_layers=1,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
    )
    assert "sliding_attention" in config.layer_types
    with caplog.at_level("WARNING", "prefmill"):
        model = prepare(build(config))
    assert model.config._attn_implementation == "sdpa"
    assert "its window stands in its mask alone" in caplog.text


def test_the_dtype_is_that_of_the_weights_that_run():
    """Weights may be cast for the pass, whatever the model says of its own."""
    model = build(FAMILIES["llama"])
    halves = {name: weight.bfloat16() for name, weight in model.named_parameters()}
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.no_grad():
        torch.func.functional_call(Prepared(model), {f"model.{name}": half for name, half in halves.items()})
    assert set(seen) == {torch.bfloat16}
    assert model.config._attn_implementation == PACKED and model.dtype == torch.float32


class Prepared(torch.nn.Module):
    """Runs the self-test in its forward."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self):
        prepare(self.model)


def test_half_precision_is_measured_against_the_spread_of_the_model():
    assert self_test_gaps("float32", 2.4) == self_test_gaps("float32", 0.1) == (2e-4, 1e-3)
    trained, tiny = self_test_gaps("bfloat16", 2.4), self_test_gaps("bfloat16", 0.1)
    assert trained.mean == pytest.approx(0.12) and tiny.mean == pytest.approx(0.005)
    assert self_test_gaps("float16", 100.0) == (0.2, 1.0)
    assert self_test_leak("float32", 0.0) == self_test_leak("bfloat16", 0.0) == 0


def test_a_rank_that_is_lost_says_nothing_of_the_model(monkeypatch, tmp_path):
    model = build(FAMILIES["llama"])
    for said, expected in (("[gloo/pair.cc] Connection closed by peer", RuntimeError), ("odd", UserError)):

        def fail(*_, said=said):
            raise RuntimeError(said)

        monkeypatch.setattr(selftest, "token_logps", fail)
        with pytest.raises(expected, match=r"closed by peer|odd") as caught, usable(tmp_path):
            prepare(model)
        assert type(caught.value) is expected
