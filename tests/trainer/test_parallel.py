"""DDP and FSDP2 do what one rank does alone: the same losses and gradients, step after step.

The policy is unlike the reference, so no loss stands at its value of step 0. The number of micro-batches
differs between the ranks.
"""

from typing import Any

import pytest
import torch

from schemas.errors import UserError
from schemas.recipe import Recipe
from schemas.sections import Model, Train
from tests.trainer.families import NAMES as FAMILIES
from tests.trainer.ranks import RankPool
from tests.trainer.steps import Step, check_same, take
from trainer import dist
from trainer.dist import Ranks
from trainer.losses import NAMES as LOSSES
from trainer.opening import open_policy
from trainer.parallel import unsplit_remark
from trainer.train import train

STEPS = 5
SMALL = {"micro_batch_tokens": 300}  # several micro-batches a step
BASELINE = {"loss": "rpo", "options": {"rpo": {"y0": "baseline"}}}


def check_on_ranks(
    pool: RankPool, run, cases: list[tuple[Any, dict[str, Any]]], atol: float = 1e-5, **more: Any
) -> None:
    """Every case, shared by the pool's ranks in each way, is what it is on one rank. `more`: theirs."""
    differed: list[bool] = []
    for model, settings in cases:
        alone = take(run, model, STEPS, SMALL | settings)
        for parallel in ("ddp", "fsdp"):
            shared = SMALL | settings | more | {"parallel": parallel}
            of_ranks = pool.run(take, run, model, STEPS, shared)
            for of_rank in of_ranks:
                check_same(of_rank, alone, atol)
            differed.append(work_differs(of_ranks))
    assert any(differed), "every rank had as many micro-batches as the others"


def work_differs(of_ranks: list[list[Step]]) -> bool:
    """True if ranks had different numbers of micro-batches in some step. All make as many passes."""
    own = [[step.own for step in steps] for steps in of_ranks]
    passes = [[step.passes for step in steps] for steps in of_ranks]
    assert all(len(set(at_step)) == 1 for at_step in zip(*passes, strict=True)), passes
    return any(len(set(at_step)) > 1 for at_step in zip(*own, strict=True))


def test_two_ranks_do_what_one_does(two_ranks, rich_run, family):
    cases = [
        (family("gemma2"), {"loss": "sr_dpo", "gradient_checkpointing": "true"}),
        (family("mixtral"), BASELINE),
        # One rank has no pair.
        (family("llama"), {"loss": "bmc", "batch_size": 1, "reshard_after_forward": False}),
    ]
    check_on_ranks(two_ranks, rich_run, cases)


@pytest.mark.long
def test_two_ranks_do_what_one_does_for_every_loss(two_ranks, rich_run, other_model):
    cases = [(other_model, {"loss": name, "options": {"sft": {"weight": 0.1}}}) for name in LOSSES]
    check_on_ranks(two_ranks, rich_run, [*cases, (other_model, BASELINE)])


@pytest.mark.long
def test_two_ranks_do_what_one_does_for_every_family(two_ranks, rich_run, family):
    check_on_ranks(two_ranks, rich_run, [(family(name), {"loss": "ipo"}) for name in FAMILIES])


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_checkpointing": "true"},
        {"reshard_after_forward": False},
        {"batch_size": 1},
        {"look_ahead": 3},
        {"max_grad_norm": 0.0},
        {"weight_decay": 0.1, "optimizer": "rmsprop", "learning_rate": 1e-4},
        {"micro_batch_tokens": 1, "batch_size": 9},
    ],
    ids=str,
)
def test_two_ranks_do_what_one_does_with_other_settings(settings, two_ranks, rich_run, other_model, family):
    cases = [(model, {"loss": "ipo"} | settings) for model in (other_model, family("llama"))]
    check_on_ranks(two_ranks, rich_run, cases)


@pytest.mark.long
def test_three_ranks_do_what_one_does(rich_run, other_model, family):
    # A third is not exact, and Adam takes the rounding of a small gradient for its direction: a weight then
    # differs by as much as the learning rate. So the steps are small: the sums over ranks are what is tested.
    small_steps = {"learning_rate": 1e-5}
    cases = [
        (other_model, small_steps | {"loss": "sr_dpo"}),
        (family("qwen3_moe"), small_steps | BASELINE),
        (family("llama"), small_steps | {"batch_size": 2}),
    ]
    pool = RankPool(3)
    try:
        check_on_ranks(pool, rich_run, cases)
    finally:
        pool.close()


@pytest.mark.long
def test_groups_of_ranks_do_what_one_does(rich_run, other_model, family):
    """Weights split over two ranks, and two such groups (HSDP)."""
    cases = [(other_model, {"loss": "sr_dpo"}), (family("gemma2"), {"batch_size": 3})]
    pool = RankPool(4)
    try:
        check_on_ranks(pool, rich_run, cases, shard_size=2)
    finally:
        pool.close()


def share_of_weights(model, settings: dict[str, Any]) -> tuple[int, int, int]:
    """How many elements of weights this rank holds, how many there are, and which part of them it has."""
    ranks = dist.start("cpu", 60.0)
    try:
        parallel = open_policy(model, Train(**settings), ranks)
        own = 0
        for parameter in parallel.policy.parameters():
            local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            own += local.numel()
        return own, sum(parameter.numel() for parameter in parallel.policy.parameters()), parallel.shard
    finally:
        dist.stop()


def test_fsdp_splits_every_weight_and_ddp_none(two_ranks, other_model):
    settings = {"dtype": "float32", "parallel": "fsdp"}
    (first, whole, part), (second, _, other_part) = two_ranks.run(share_of_weights, other_model, settings)
    assert first + second == whole and abs(first - second) < 0.01 * whole
    assert (part, other_part) == (0, 1)
    settings["parallel"] = "ddp"
    assert two_ranks.run(share_of_weights, other_model, settings) == [(whole, whole, 0)] * 2


def test_what_is_asked_of_split_weights_is_checked_before_anything_is_read_or_said(monkeypatch):
    monkeypatch.setattr("trainer.train.plan", lambda *_: pytest.fail("it went on"))
    six = Ranks(0, 6, torch.device("cpu"))
    monkeypatch.setattr(dist, "start", lambda *_: six)
    recipe = Recipe({"model": Model(), "train": Train(parallel="fsdp", shard_size=4)}, 0)
    with pytest.raises(UserError, match=r"shard_size = 4, but there are 6 ranks") as caught:
        train(".", recipe)
    assert caught.value.shared
    assert "on one rank splits nothing" in unsplit_remark(
        Train(parallel="fsdp", shard_size=4), Ranks(0, 1, six.device)
    )
    assert "shard_size = 4 splits nothing" in unsplit_remark(Train(parallel="ddp", shard_size=4), six)
    for fine in (Train(parallel="fsdp", shard_size=3), Train(parallel="ddp"), Train()):
        assert unsplit_remark(fine, six) == ""


def test_gradients_added_in_bfloat16_are_those_up_to_its_rounding(two_ranks, rich_run, other_model):
    """Each is rounded before it is sent and after it was added up: to 2⁻⁹ of what it is, twice."""
    (exact,) = take(rich_run, other_model, 1, SMALL)
    for parallel in ("ddp", "fsdp"):
        settings = SMALL | {"parallel": parallel, "reduce_dtype": "bfloat16"}
        (rounded,) = two_ranks.run(take, rich_run, other_model, 1, settings)[0]
        assert rounded.totals[0].item() == pytest.approx(exact.totals[0].item(), abs=1e-4)
        differ = 0
        for name, gradient in exact.gradients.items():
            difference = (rounded.gradients[name] - gradient).norm()
            assert difference <= 0.01 * gradient.norm(), name
            differ += int(difference > 1e-4 * gradient.norm())
        assert differ > len(exact.gradients) / 2  # it was done in bfloat16


def after_failure(run, model, settings: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    """The gradients of one pass: at first, and after a pass that failed on its way."""
    from trainer import data, losses
    from trainer.pairs import open_pairs
    from trainer.step import Stepper

    ranks = dist.start("cpu", 60.0)
    try:
        config = Train(**settings)
        parallel = open_policy(model, config, ranks)
        objective = losses.choose(config)
        stepper = Stepper(parallel, objective, config, ranks)
        _, batch = next(data.global_batches(open_pairs(run, objective.needs), 8, seed=2))
        found: list[dict[str, torch.Tensor]] = []
        for fails in (False, True):
            if fails:
                fail_in_a_layer(stepper, batch)
                parallel.forget_step()
            stepper.backward(batch)
            gradients = {
                name: parallel.whole(parameter.grad).clone()
                for name, parameter in parallel.policy.model.named_parameters()
            }
            found.append(gradients)
            parallel.policy.zero_grad()
        return found
    finally:
        dist.stop()


def fail_in_a_layer(stepper, batch) -> None:
    """A step that ends in an error in its second micro-batch."""
    layers = stepper.parallel.policy.model.base_model.layers
    passes = []

    def fail(*_: object) -> None:
        passes.append(None)
        if len(passes) > 1:
            raise ArithmeticError

    hook = layers[-1].mlp.register_forward_pre_hook(fail)
    with pytest.raises(ArithmeticError):
        stepper.backward(batch)
    hook.remove()


@pytest.mark.parametrize("parallel", ["fsdp", pytest.param("ddp", marks=pytest.mark.long)])
def test_after_a_step_that_failed_the_next_is_what_it_would_have_been(
    parallel, two_ranks, rich_run, other_model
):
    settings = SMALL | {"dtype": "float32", "parallel": parallel, "micro_batch_tokens": 100}
    for first, second in two_ranks.run(after_failure, rich_run, other_model, settings):
        assert all(torch.equal(first[name], second[name]) for name in first)
