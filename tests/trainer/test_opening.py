"""A policy as it is opened and saved: every rank has what rank 0 has read, and holds nothing for longer.

The families are those of which loading makes more than their class builds.
"""

import gc
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from schemas.errors import UserError
from schemas.forward.load import load as load_as_engine
from schemas.forward.precision import compute_dtypes
from schemas.sections import Train
from tests.trainer.families import save_family
from tests.trainer.forward import policy_in
from tests.trainer.test_precision import logps_of, on_ranks
from trainer import dist, opening
from trainer.opening import open_policy
from trainer.parallel import Parallel, _units
from trainer.state import TrainState, weights_of


def with_own_head(folder, vocabulary: int):
    """A model whose config ties its head to the embedding, and whose files hold another head."""
    save_family("llama_tied", vocabulary, folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0).contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_ranks_hold_what_rank_0_has_read(two_ranks, family, tmp_path):
    """A head that is not tied after all, weights that are not trained, and what stays in float32."""
    cases = [
        (with_own_head(tmp_path, 64), {}),
        (family("ernie_moe"), {}),
        (family("minimax_m2"), {}),
        (family("deepseek_v3"), {"weights": "bfloat16"}),
    ]
    for folder, settings in cases:
        with torch.no_grad():
            wanted = logps_of(load_as_engine(folder, torch.bfloat16, "cpu"))
        values = {"dtype": "bfloat16", "parallel": "fsdp"} | settings
        for found in two_ranks.run(on_ranks, folder, values):
            assert torch.equal(found, wanted), folder


def gradients(folder, values) -> dict[str, torch.Tensor]:
    """Of the sum of some log-probs, added up over the ranks."""
    ranks = dist.start("cpu", 60.0)
    try:
        parallel = open_policy(folder, Train(**values), ranks)
        parallel.backward(parallel.training_pass(logps_of, last=True).sum(), last=True)
        found = {}
        for name, parameter in parallel.policy.model.named_parameters():
            if parameter.requires_grad:
                found[name] = parallel.whole(parameter.grad).clone()
        return found
    finally:
        dist.stop()


def test_what_a_class_does_not_train_is_not_trained(two_ranks, family):
    """The bias that balances a router is given back by a load as a weight that is trained."""
    folder = family("ernie_moe")
    policy = policy_in(folder, dtype="bfloat16")
    still = {name for name, weight in policy.policy.model.named_parameters() if not weight.requires_grad}
    assert still == {"model.layers.1.mlp.gate.moe_statics.e_score_correction_bias"}
    policy.training_pass(logps_of, last=True).sum().backward()
    (first, _) = two_ranks.run(gradients, folder, {"dtype": "bfloat16", "parallel": "fsdp"})
    assert not still & first.keys()
    for name, gradient in first.items():
        own = policy.policy.model.get_parameter(name).grad
        assert torch.allclose(gradient, own, atol=1e-2 * own.norm().item()), name


def test_a_module_of_two_dtypes_cannot_be_split(family):
    policy = policy_in(family("gpt2")).policy
    dtypes = compute_dtypes(policy.model, torch.bfloat16)
    dtypes[policy.model.get_parameter("transformer.h.1.mlp.c_fc.bias")] = torch.float32
    with pytest.raises(UserError, match=r"h.1.mlp.c_fc.weight is computed in bfloat16 and .*bias beside it"):
        _units(policy, dtypes)


def test_what_a_float32_module_holds_is_split_apart_from_it(family):
    """Weights of another dtype in modules within it, and always the inner module first."""
    policy = policy_in(family("ernie_moe")).policy
    dtypes = compute_dtypes(policy.model, torch.bfloat16)
    layer = policy.model.model.layers[1]
    gate = layer.mlp.gate
    dtypes[gate.moe_statics.e_score_correction_bias] = torch.bfloat16
    units = _units(policy, dtypes)
    found = [(module, dtype) for module, dtype in units if module in (gate, gate.moe_statics, layer, policy)]
    assert found == [
        (gate.moe_statics, torch.bfloat16),
        (gate, torch.float32),
        (layer, torch.bfloat16),
        (policy, torch.bfloat16),
    ]


def saved_by(parallel: Parallel, save_dtype: str) -> dict[str, torch.Tensor]:
    return dict(weights_of(TrainState(parallel, None, None, save_dtype)))


def test_a_buffer_is_saved_as_it_was_read(family):
    """Though the pass runs with a rounded one. A run that goes on from the file has the same buffers."""
    folder = family("gemma4")
    source = load_file(folder / "model.safetensors")
    policy = policy_in(folder, dtype="bfloat16")
    name = "model.layers.1.layer_scalar"
    for save_dtype in ("bfloat16", "float32"):
        saved = saved_by(policy, save_dtype)
        assert saved[name].dtype == torch.float32 and torch.equal(saved[name], source[name])
        assert saved["lm_head.weight"].dtype == getattr(torch, save_dtype)
    policy.policy.buffers_as_read[name] = source[name].bfloat16().float()
    assert saved_by(policy, "bfloat16")[name].dtype == torch.bfloat16  # loses nothing


def test_what_a_class_makes_in_float32_is_saved_so(family):
    saved = saved_by(policy_in(family("hunyuan_moe"), dtype="bfloat16"), "bfloat16")
    kept = {name for name, tensor in saved.items() if tensor.dtype == torch.float32}
    assert kept == {f"model.layers.{layer}.mlp.gate.wg.weight" for layer in range(2)}


def held_while_saving(folder, values) -> tuple[int, int]:
    """How many tensors a rank goes through while rank 0 saves, and how many of them it still holds then."""
    ranks = dist.start("cpu", 60.0)
    try:
        parallel = open_policy(folder, Train(**values), ranks)
        state = TrainState(parallel, None, None, "float32")
        gathered = [weakref.ref(tensor) for _, tensor in weights_of(state)]
        return len(gathered), sum(tensor() is not None for tensor in gathered)
    finally:
        dist.stop()


def test_ranks_that_do_not_write_hold_nothing_of_what_is_saved(two_ranks, family):
    folder = family("llama")
    weights = len(load_file(folder / "model.safetensors"))
    (first, _), (second, held) = two_ranks.run(
        held_while_saving, folder, {"dtype": "float32", "parallel": "fsdp"}
    )
    assert first == second == weights and held <= 1
    (first, _), (second, _) = two_ranks.run(
        held_while_saving, folder, {"dtype": "float32", "parallel": "ddp"}
    )
    assert (first, second) == (weights, 0)


def known_after_sharing(folder) -> int:
    """How many of the weights that were split are known to anyone afterwards: they keep their memory."""
    ranks = dist.start("cpu", 60.0)
    split: list[weakref.ref[nn.Parameter]] = []
    share = opening.share

    def shared(policy, *rest):
        split.extend(weakref.ref(weight) for weight in policy.parameters())
        parallel = share(policy, *rest)
        gc.collect()
        known.append(sum(weight() is not None for weight in split))
        return parallel

    known: list[int] = []
    opening.share = shared
    try:
        open_policy(folder, Train(dtype="bfloat16", parallel="fsdp"), ranks)
        assert split
        return known[0]
    finally:
        opening.share = share
        dist.stop()


def test_no_rank_holds_whole_weights_after_they_are_split(two_ranks, family):
    """On a GPU each would be there, in float32."""
    assert two_ranks.run(known_after_sharing, family("llama")) == [0, 0]


def refused(folder, values) -> tuple[str, bool]:
    """What each rank says of a model, and whether all say the same."""
    ranks = dist.start("cpu", 60.0)
    try:
        with pytest.raises(UserError) as error:
            open_policy(folder, Train(**values), ranks)
        return str(error.value), error.value.shared
    finally:
        dist.stop()


def test_a_weight_that_is_not_finite_is_found_by_all_ranks(two_ranks, tmp_path):
    """Whichever rank holds the part that is not."""
    folder = save_family("llama", 64, tmp_path)
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][-1, -1] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for parallel in ("fsdp", "ddp"):
        first, second = two_ranks.run(refused, folder, {"dtype": "float32", "parallel": parallel})
        assert first == second and f"NaN or infinity in float32 ({name})" in first[0]
        assert first[1]
