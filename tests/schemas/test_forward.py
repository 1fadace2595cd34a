"""Packed = dense: log-probs and gradients are those of the model's own forward, one response at a time."""

import functools

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from schemas.forward import attention, logps
from schemas.forward.attention import PACKED
from schemas.forward.layout import INDICES, Ending, pack
from schemas.forward.load import prepare

V = 61
SIZES = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": 1,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "mistral": MistralConfig(**SIZES, sliding_window=4),
    "gemma2": Gemma2Config(
        **SIZES, head_dim=8, sliding_window=4, attn_logit_softcapping=5.0, final_logit_softcapping=3.0
    ),
    "phi3": Phi3Config(**SIZES),
    "granite": GraniteConfig(**SIZES, logits_scaling=2.0),
    "cohere": CohereConfig(**SIZES, logit_scale=0.5),
    "neox": GPTNeoXConfig(**{key: value for key, value in SIZES.items() if key != "num_key_value_heads"}),
    "gpt2": GPT2Config(
        vocab_size=V,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=1,
        eos_token_id=1,
    ),
}
# B = 3 groups with 2, 3 and 1 responses of 1 to 11 tokens: no two sizes equal by accident.
LENGTHS = [(9, [4, 7]), (2, [1, 11, 5]), (5, [3])]


def groups(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randint(0, V, (prompt,), generator=draw).tolist(),
            [torch.randint(0, V, (n,), generator=draw).tolist() for n in responses],
        )
        for prompt, responses in LENGTHS
    ]


def build(config, dtype=torch.float32):
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype).eval()


def token_logps(model, groups):
    decoder, head = logps.decoder_and_head(model)
    return logps.token_logps(decoder, head, pack(groups))


def dense(model, groups):
    """The independent computation: a row a response, all logits, float64 log-softmax."""
    tokens = []
    for prompt, responses in groups:
        for response in responses:
            ids = torch.tensor([[*prompt, *response]])
            all_logps = model(ids, use_cache=False).logits[0].double().log_softmax(-1)
            tokens += [all_logps[len(prompt) + t - 1, token] for t, token in enumerate(response)]
    return torch.stack(tokens)


def check_against_dense(model, switch):
    """Packed values and gradients beside the dense ones; `switch` makes the model ready for packing."""
    want = dense(model, groups())
    # Unlike weights: a swap of two tokens must show.
    weights = torch.linspace(-1, 1, len(want), dtype=torch.float64)
    (want * weights).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()

    switch(model)
    got = token_logps(model, groups())
    (got.double() * weights).sum().backward()

    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=0)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(
            parameter.grad, gradient, atol=1e-5 * max(1.0, gradient.abs().max().item()), rtol=0
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_is_dense_in_values_and_gradients(family):
    model = build(FAMILIES[family])
    check_against_dense(model, prepare)
    assert model.config._attn_implementation == PACKED, "the family fell back to padding"


def flash_attention_by_its_documentation(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    """torch.nn.attention.varlen.varlen_attn, which runs on a GPU alone: (T_q, heads, d).

    The last query of a segment is aligned with its last key. Half precision is added up in float32."""
    dtype = query.dtype
    query, key, value = query.float(), key.float(), value.float()
    assert (
        cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        and cu_seq_q[-1] == len(query)
        and cu_seq_k[-1] == len(key) == len(value)
    )
    assert (
        max_q == cu_seq_q.diff().max()
        and max_k == cu_seq_k.diff().max()
        and enable_gqa == (query.shape[1] != key.shape[1])
    )
    out = []
    for begin, end, k_begin, k_end in zip(cu_seq_q, cu_seq_q[1:], cu_seq_k, cu_seq_k[1:], strict=False):
        q, k, v = (
            query[begin:end],
            *(x[k_begin:k_end].repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value)),
        )
        ahead = torch.arange(len(k)) - (torch.arange(len(q)) + len(k) - len(q))[:, None]
        seen = (ahead <= window_size[1]) & ((ahead >= -window_size[0]) | (window_size[0] < 0))
        weights = (
            (torch.einsum("qhd,khd->hqk", q, k) * (scale or q.shape[2] ** -0.5))
            .masked_fill(~seen, float("-inf"))
            .softmax(-1)
        )
        out.append(torch.einsum("hqk,khd->qhd", weights, v))
    return torch.cat(out).to(dtype)


def flash_attention_of_torch_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)
):
    """The same without enable_gqa: a key head for each query head."""
    return flash_attention_by_its_documentation(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size
    )


KERNELS = {"2.13": flash_attention_by_its_documentation, "2.11": flash_attention_of_torch_2_11}


@pytest.mark.parametrize("torch_version", KERNELS)
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "granite", "gpt2"])
def test_one_kernel_for_all_segments_is_dense_in_values_and_gradients(family, torch_version, monkeypatch):
    """What runs on a GPU in half precision, with the kernel's documentation in its place."""
    calls = use_kernel(monkeypatch, KERNELS[torch_version])

    def switch(model):
        model.config._attn_implementation = PACKED

    check_against_dense(build(FAMILIES[family]), switch)
    assert len(calls) == 2, "one call a layer"


def use_kernel(monkeypatch, kernel):
    """Let `kernel` run as on a GPU; returns the arguments of its calls."""
    calls = []

    @functools.wraps(kernel)  # and its signature
    def counted(*args, **options):
        calls.append(args)
        return kernel(*args, **options)

    monkeypatch.setattr(attention, "_kernel_runs", lambda query, key, value: True)
    monkeypatch.setattr(attention.varlen, "varlen_attn", counted)
    return calls


@pytest.mark.parametrize("family", ["qwen2", "mistral"])
@pytest.mark.parametrize("torch_version", KERNELS)
def test_the_kernel_in_bfloat16_is_the_general_attention_up_to_rounding(family, torch_version, monkeypatch):
    model = prepare(build(FAMILIES[family], torch.bfloat16))
    want = token_logps(model, groups())
    use_kernel(monkeypatch, KERNELS[torch_version])
    got = token_logps(model, groups())
    assert (got - want).abs().mean() < 2e-3
    assert prepare(build(FAMILIES[family], torch.bfloat16)).config._attn_implementation == PACKED


def test_the_indices_of_the_kernel_move_with_the_layout():
    """All that is on the device comes there together, so no layer waits for a copy."""
    layout = pack(groups())
    tensors = [name for name, value in vars(layout).items() if isinstance(value, torch.Tensor)]
    assert set(tensors) == set(INDICES)
    # 41 tokens; responses beside the first see their prompt once more: 9 + 2 + 2 keys.
    assert len(layout.ids) == 41 and len(layout.seen) == 54
    assert layout.query_cuts[-1] == 41 and layout.key_cuts[-1] == 54


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ready", [prepare, lambda model: model], ids=["packed", "padded"])
def test_an_endings_alternatives_are_read_from_one_hidden_state(family, ready, monkeypatch):
    """Beginnings of 1 to 9 tokens, rests of none to 11, 1 to 4 alternatives; two rows of logits at a time."""
    model = build(FAMILIES[family])
    draw = torch.Generator().manual_seed(2)
    alternatives = [[3, 9, 3], [5], [60, 0, 1, 2], [7, 8], [4, 6]]
    endings = iter(alternatives)
    asked, want = [], []
    for prompt, responses in [(9, [0, 7]), (2, [11]), (5, [0, 0])]:
        ids = torch.randint(0, V, (prompt,), generator=draw).tolist()
        group = []
        for length in responses:
            rest, tokens = torch.randint(0, V, (length,), generator=draw).tolist(), next(endings)
            group.append(Ending(rest, tokens))
            with torch.no_grad():
                logits = model(torch.tensor([[*ids, *rest]]), use_cache=False).logits[0, -1]
            want.append(logits.double().log_softmax(-1)[tokens])
        asked.append((ids, group))
    model = ready(model)
    monkeypatch.setitem(logps._CHUNK_LOGITS, "cpu", 2 * V)
    with torch.no_grad():
        got = token_logps(model, asked)
    torch.testing.assert_close(got.double(), torch.cat(want), atol=1e-5, rtol=0)
    assert pack(asked).lengths == list(map(len, alternatives))


def test_padding_is_dense_too():
    """The way out for a model that does not take part in packing."""
    model = build(FAMILIES["llama"])
    torch.testing.assert_close(
        token_logps(model, groups()).double(), dense(model, groups()), atol=1e-5, rtol=0
    )


def test_a_model_that_ignores_the_layout_is_padded_with_a_warning(caplog):
    model = build(FAMILIES["llama"])
    # Mixes in the left neighbour, whatever the layout, as a convolution or a state-space layer does.
    for layer in model.model.layers:
        layer.self_attn.forward = lambda hidden_states, **_: (
            hidden_states + hidden_states.roll(1, 1) * (torch.arange(hidden_states.shape[1]) > 0)[:, None],
            None,
        )
    with caplog.at_level("WARNING", "prefmill"):
        prepare(model)
    assert model.config._attn_implementation == "sdpa"
    assert "padded instead" in caplog.text
    torch.testing.assert_close(
        token_logps(model, groups()).double(), dense(model, groups()), atol=1e-5, rtol=0
    )


def test_the_number_of_chunks_changes_nothing(monkeypatch):
    model = prepare(build(FAMILIES["qwen2"]))
    whole = token_logps(model, groups())
    monkeypatch.setitem(logps._CHUNK_LOGITS, "cpu", 4 * V)
    torch.testing.assert_close(token_logps(model, groups()), whole, atol=1e-6, rtol=0)


def test_no_tensor_of_length_times_vocabulary_is_made(monkeypatch):
    """Every tensor that the head makes is at most one chunk."""
    model = prepare(build(FAMILIES["llama"]))
    monkeypatch.setitem(logps._CHUNK_LOGITS, "cpu", 5 * V)
    rows = []
    model.lm_head.register_forward_hook(lambda module, args, out: rows.append(out.shape[0]))
    got = token_logps(model, groups())
    got.sum().backward()
    assert max(rows) == 5 and sum(rows) >= len(got)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for on in (False, True):
        model = prepare(build(FAMILIES["llama"]))
        if on:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()
        token_logps(model, groups()).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-6, rtol=1e-5)


def test_a_response_does_not_see_its_sibling():
    model = prepare(build(FAMILIES["llama"]))
    prompt, responses = groups()[1]
    changed = [[(token + 1) % V for token in responses[0]], *responses[1:]]
    first, second = (token_logps(model, [(prompt, some)]) for some in (responses, changed))
    assert torch.equal(first[len(responses[0]) :], second[len(responses[0]) :])
    assert not torch.equal(first[: len(responses[0])], second[: len(responses[0])])
