"""BMC's laws and values, by loops that share nothing with the code.

Gradients do not pass through the weights.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from schemas.errors import UserError
from schemas.sections import Train
from tests.trainer.test_dpo import T_CHOSEN, T_REJECTED, B, side
from trainer.losses import bmc, choose, dpo, ipo, ipo_bmc
from trainer.losses.side import Side


def edited(t: int, seed: int, same: bool = False, edits: bool = True) -> Side:
    one = side(t, seed, same)
    mask = (
        (torch.rand(B, t, generator=torch.Generator().manual_seed(seed)) < 0.5).double() * one.mask
        if edits
        else torch.zeros_like(one.mask)
    )
    return Side(one.token_logps, one.ref_token_logps, one.mask, mask)


def gaps_by_loops(chosen: Side, rejected: Side, delta: float, code: bool, mean: bool = False) -> torch.Tensor:
    def total(one: Side, row: int) -> torch.Tensor:
        found = torch.zeros((), dtype=torch.float64)
        for t in range(one.mask.shape[1]):
            if one.mask[row, t]:
                p, r, edit = one.token_logps[row, t], one.ref_token_logps[row, t], one.edit_mask[row, t] > 0
                own = 1 + min(1 / math.exp(p.item()), delta) if edit else 1.0
                refs = 1 + min(1 / math.exp(r.item()), delta) if edit else 1.0
                found = found + (own * p - refs * r if code else own * (p - r))
        return found / (one.mask[row] > 0).sum() if mean else found

    return torch.stack([total(chosen, row) - total(rejected, row) for row in range(B)])


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.5, 50.0, math.inf])
@pytest.mark.parametrize("weighting", ["paper", "code"])
def test_values_and_gradients(delta, weighting):
    chosen, rejected = edited(T_CHOSEN, 1), edited(T_REJECTED, 2)
    code = weighting == "code"
    same(
        bmc.loss(chosen, rejected, bmc.Config(0.3, delta, weighting)),
        -F.logsigmoid(0.3 * gaps_by_loops(chosen, rejected, delta, code)),
        chosen,
        rejected,
    )
    for reduction in ("sum", "mean"):
        want = (gaps_by_loops(chosen, rejected, delta, code, reduction == "mean") - 1 / 0.6) ** 2
        same(
            ipo_bmc.loss(chosen, rejected, ipo_bmc.Config(0.3, delta, weighting, reduction)),
            want,
            chosen,
            rejected,
        )


def same(got: torch.Tensor, want: torch.Tensor, chosen: Side, rejected: Side) -> None:
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
    inputs = (chosen.token_logps, rejected.token_logps)
    for a, b, one in zip(
        torch.autograd.grad(got.sum(), inputs),
        torch.autograd.grad(want.sum(), inputs),
        (chosen, rejected),
        strict=True,
    ):
        torch.testing.assert_close(a * one.mask, b * one.mask, atol=1e-9, rtol=1e-9)


def test_no_edits_is_dpo_and_ipo():
    chosen, rejected = edited(T_CHOSEN, 1, edits=False), edited(T_REJECTED, 2, edits=False)
    torch.testing.assert_close(
        bmc.loss(chosen, rejected, bmc.Config(0.3, 2.5)), dpo.loss(chosen, rejected, dpo.Config(0.3))
    )
    torch.testing.assert_close(
        ipo_bmc.loss(chosen, rejected, ipo_bmc.Config(0.3, 2.5)),
        ipo.loss(chosen, rejected, ipo.Config(0.3, "sum")),
    )
    torch.testing.assert_close(
        ipo_bmc.loss(chosen, rejected, ipo_bmc.Config(0.3, 2.5, "paper", "mean")),
        ipo.loss(chosen, rejected, ipo.Config(0.3, "mean")),
    )


def test_delta_0_weighs_1():
    chosen, rejected = edited(T_CHOSEN, 1), edited(T_REJECTED, 2)
    torch.testing.assert_close(
        bmc.loss(chosen, rejected, bmc.Config(0.3, 0.0)), dpo.loss(chosen, rejected, dpo.Config(0.3))
    )


@pytest.mark.parametrize("weighting", ["paper", "code"])
def test_step_0(weighting):
    chosen, rejected = edited(T_CHOSEN, 1, same=True), edited(T_REJECTED, 2, same=True)
    torch.testing.assert_close(
        bmc.loss(chosen, rejected, bmc.Config(0.3, 2.5, weighting)),
        torch.full((B,), math.log(2), dtype=torch.float64),
    )
    torch.testing.assert_close(
        ipo_bmc.loss(chosen, rejected, ipo_bmc.Config(0.3, 2.5, weighting)),
        torch.full((B,), (1 / 0.6) ** 2, dtype=torch.float64),
    )


def test_weights_lie_between_2_and_1_plus_delta_where_delta_is_at_least_1():
    chosen = edited(T_CHOSEN, 1)
    weights = bmc._weights(chosen.token_logps, chosen.edit_mask, 3.0)
    assert not weights.requires_grad
    inside = weights[chosen.edit_mask > 0]
    assert inside.min() >= 2 and inside.max() <= 4 and (weights[chosen.edit_mask == 0] == 1).all()


def test_the_modelling_alone_and_the_objective():
    objective = choose(Train(loss="bmc", options={"bmc": {"delta": 3.0, "beta": 0.05}}))
    assert objective.needs == ("edit_mask",) and objective.beta == 0.05
    with pytest.raises(UserError, match=r"\[train\.bmc\] weighting = paperr; did you mean 'paper'"):
        choose(Train(loss="bmc", options={"bmc": {"weighting": "paperr"}}))
