"""One precision on both sides: the trainer's pass is the engine's, bit for bit, in bfloat16 as in float32.

So step 0 is log 2 whatever the dtype, and a cache of another dtype is refused or its noise is told truly.
"""

import json
import math
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from schemas.errors import UserError
from schemas.forward.layout import pack
from schemas.forward.load import load as load_as_engine
from schemas.forward.logps import decoder_and_head, token_logps
from schemas.sections import Train
from schemas.store import open_store
from tests.trainer.caches import SANDBOX, recipe_of
from tests.trainer.families import NAMES as FAMILIES
from tests.trainer.families import ODD_NAMES as ODD_FAMILIES
from tests.trainer.forward import policy_in
from trainer import dist
from trainer.opening import open_policy
from trainer.train import train

LOG_2 = math.log(2)
# Three prompts with 2, 1 and 3 responses.
GROUPS = [
    ([5, 9, 2, 44, 17, 3, 8], [[4, 6, 1], [7, 30, 31, 32, 1]]),
    ([11, 12], [[1]]),
    ([21, 22, 23, 24, 25], [[3, 1], [9, 9, 9, 9, 1], [50, 51, 52, 53, 54, 55, 1]]),
]


def logps_of(model) -> torch.Tensor:
    decoder, head = decoder_and_head(model)
    return token_logps(decoder, head, pack(GROUPS))


def on_ranks(folder, values) -> torch.Tensor:
    """The policy's log-probs of GROUPS, as each rank has them."""
    ranks = dist.start("cpu", 60.0)
    try:
        return open_policy(folder, Train(**values), ranks).look(logps_of)
    finally:
        dist.stop()


@pytest.mark.parametrize(
    ("name", "dtype"), [("llama", "float32"), *((name, "bfloat16") for name in FAMILIES + ODD_FAMILIES)]
)
def test_the_pass_is_the_engines_bit_for_bit(name, dtype, family):
    """Float32 weights lowered for a pass are what weights loaded in the dtype are."""
    folder = family(name)
    with torch.no_grad():
        wanted = logps_of(load_as_engine(folder, getattr(torch, dtype), "cpu"))
    policy = policy_in(folder, dtype=dtype)
    if name not in ("lfm2", "zamba2"):
        assert policy.policy.model.config._attn_implementation == "prefmill_packed"
    assert torch.equal(policy.look(logps_of), wanted)
    assert {parameter.dtype for parameter in policy.policy.parameters()} == {torch.float32}
    checkpointed = policy_in(folder, dtype=dtype, gradient_checkpointing="true")
    found = checkpointed.training_pass(logps_of, last=True)
    assert torch.equal(found, wanted)
    if name == "zamba2":
        found.sum().backward()  # a layer within a layer is made again with the outer one


def test_on_ranks_too(two_ranks, family):
    for name in ("llama", "gemma2", "deepseek_v3"):
        folder = family(name)
        with torch.no_grad():
            wanted = logps_of(load_as_engine(folder, torch.bfloat16, "cpu"))
        for parallel in ("ddp", "fsdp"):
            values = {"dtype": "bfloat16", "parallel": parallel}
            for found in two_ranks.run(on_ranks, folder, values):
                assert torch.equal(found, wanted), (name, parallel)


def test_weights_in_bfloat16_compute_the_same(family):
    folder = family("llama")
    wanted = policy_in(folder, dtype="bfloat16").look(logps_of)
    policy = policy_in(folder, dtype="bfloat16", weights="bfloat16")
    assert {parameter.dtype for parameter in policy.policy.parameters()} == {torch.bfloat16}
    assert torch.equal(policy.look(logps_of), wanted)


def test_gradients_come_back_in_the_dtype_of_the_weights_and_point_the_same_way(family):
    """Those of a bfloat16 pass are those of float32 up to its rounding."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        policy = policy_in(family("llama"), dtype=dtype)
        policy.training_pass(logps_of, last=True).sum().backward()
        found[dtype] = {name: parameter.grad for name, parameter in policy.policy.named_parameters()}
    for name, exact in found["float32"].items():
        rounded = found["bfloat16"][name]
        assert rounded.dtype == torch.float32
        assert torch.cosine_similarity(rounded.flatten(), exact.flatten(), 0) > 0.99, name


def check_start(folder) -> None:
    """The first loss and the held-out loss of step 0 are log 2, the held-out margin is 0."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    held_out, first = rows[0], rows[1]
    assert held_out["step"] == 0 and first["step"] == 1
    assert held_out["eval_loss"] == pytest.approx(LOG_2, abs=1e-3)
    assert held_out["eval_rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert first["loss"] == pytest.approx(LOG_2, abs=1e-3)
    assert rows[-1]["eval_loss"] != held_out["eval_loss"]


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("sandbox", "bfloat16"),
        ("test", "float32"),
        pytest.param("sandbox", "float32", marks=LONG),
        pytest.param("test", "bfloat16", marks=LONG),
    ],
)
def test_step_0_is_log_2(name, dtype, caches, tmp_path, capsys):
    run, values = caches.copy(name, dtype, tmp_path / "run")
    last = train(run, recipe_of(values))
    said = capsys.readouterr().out
    gap = float(re.search(r"nat a token: mean ([^,]+),", said).group(1))
    assert gap < 1e-6, said  # far below the tolerance: it is the same arithmetic
    check_start(last.parent)


def train_on_ranks(run, recipe) -> str:
    return str(train(run, recipe))


@pytest.mark.parametrize("parallel", ["fsdp", pytest.param("ddp", marks=LONG)])
def test_step_0_is_log_2_on_ranks(parallel, caches, two_ranks, tmp_path):
    run, values = caches.copy("sandbox", "bfloat16", tmp_path / "run")
    recipe = recipe_of(values, train__parallel=parallel)
    folders = two_ranks.run(train_on_ranks, run, recipe)
    check_start(open_store(folders[0]).local_path().parent)


def test_auto_is_the_dtype_of_the_cache(caches, tmp_path):
    """Resolved before the fingerprint: naming it makes no other run."""
    run, values = caches.copy("sandbox", "bfloat16", tmp_path / "run")
    last = train(run, recipe_of(values))
    facts = json.loads((last.parent / "facts.json").read_text())
    assert facts["train"]["dtype"] == "bfloat16"
    assert train(run, recipe_of(values, train__dtype="bfloat16")) == last


@pytest.mark.parametrize(
    ("cached", "own"), [("bfloat16", "float32"), pytest.param("float32", "bfloat16", marks=LONG)]
)
def test_a_cache_of_another_dtype_is_refused_or_its_noise_is_told(cached, own, caches, tmp_path, capsys):
    run, values = caches.copy("sandbox", cached, tmp_path / "run")
    with pytest.raises(
        UserError, match=rf"the cache was made in {cached}, and training runs in {own}"
    ) as refused:
        train(run, recipe_of(values, train__dtype=own))
    assert "train.accept_other_dtype = true" in str(refused.value) and "train.dtype = auto" in str(
        refused.value
    )
    assert not list(run.glob("train-*"))
    accepted = recipe_of(values, train__dtype=own, train__accept_other_dtype="true")
    train(run, accepted)
    said = capsys.readouterr().out
    told = float(re.search(r"logratio begins ([^ ]+) nat wrong on average", said).group(1))
    # In bfloat16 a plain pass is itself another rounding than the packed one.
    assert told == pytest.approx(noise_of_first_batch(run, own), rel=0.1)
    assert told > 1e-3


def noise_of_first_batch(run, dtype: str) -> float:
    """Mean |logratio of chosen − logratio of rejected| by transformers alone, one response at a time."""
    from trainer import data
    from trainer.pairs import open_pairs

    _, batch = next(data.global_batches(open_pairs(run), 8, seed=0))
    model = AutoModelForCausalLM.from_pretrained(SANDBOX, dtype=getattr(torch, dtype))
    total = 0.0
    for pair in batch:
        ratios = []
        for side in ("chosen", "rejected"):
            response = pair.column(f"{side}_ids").tolist()
            ids = torch.tensor([[*pair.prompt_ids.tolist(), *response]])
            with torch.no_grad():
                logps = model(ids).logits[0].float().log_softmax(-1)
            start = len(pair.prompt_ids) - 1
            own = sum(logps[start + place, token].item() for place, token in enumerate(response))
            ratios.append(own - pair.column(f"ref_{side}_token_logps").sum().item())
        total += abs(ratios[0] - ratios[1])
    return total / len(batch)
