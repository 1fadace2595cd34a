"""DPO against its laws, the authors' formula and TRL, in values and gradients."""

import math

import pytest
import torch
import torch.nn.functional as F

from schemas.errors import UserError
from schemas.sections import Train
from trainer import losses
from trainer.losses import dpo
from trainer.losses.side import Side

B, T_CHOSEN, T_REJECTED = 7, 13, 9


def side(t, seed, same=False):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, t + 1, (B,), generator=draw)
    lengths[0] = t
    mask = (torch.arange(t) < lengths[:, None]).double()
    ref = -torch.rand(B, t, generator=draw, dtype=torch.float64) * 4 * mask
    policy = ref.clone() if same else -torch.rand(B, t, generator=draw, dtype=torch.float64) * 4 * mask
    edits = (torch.rand(B, t, generator=draw) < 0.4).double() * mask
    return Side(policy.requires_grad_(), ref, mask, edits)


def preference_loss(
    policy_chosen_logps,
    policy_rejected_logps,
    reference_chosen_logps,
    reference_rejected_logps,
    beta,
    label_smoothing=0.0,
):
    """The DPO authors' (eric-mitchell/direct-preference-optimization, trainers.py), Eq. 3 of the cDPO note;
    Apache-2.0."""
    pi_logratios = policy_chosen_logps - policy_rejected_logps
    ref_logratios = reference_chosen_logps - reference_rejected_logps
    logits = pi_logratios - ref_logratios
    return (
        -F.logsigmoid(beta * logits) * (1 - label_smoothing) - F.logsigmoid(-beta * logits) * label_smoothing
    )


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.7])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_authors_formula(beta, label_smoothing):
    chosen, rejected = side(T_CHOSEN, 1), side(T_REJECTED, 2)
    got = dpo.loss(chosen, rejected, dpo.Config(beta, label_smoothing))
    want = preference_loss(
        *((s.token_logps * s.mask).sum(1) for s in (chosen, rejected)),
        *((s.ref_token_logps * s.mask).sum(1) for s in (chosen, rejected)),
        beta,
        label_smoothing,
    )
    assert got.shape == (B,)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)
    inputs = (chosen.token_logps, rejected.token_logps)
    # A padded place has a gradient in the pure function; pad_sequence gives it nowhere to go.
    for a, b, s in zip(
        torch.autograd.grad(got.sum(), inputs),
        torch.autograd.grad(want.sum(), inputs),
        (chosen, rejected),
        strict=True,
    ):
        torch.testing.assert_close(a * s.mask, b * s.mask, atol=1e-12, rtol=0)


def test_log_2_while_policy_is_reference():
    got = dpo.loss(side(T_CHOSEN, 1, same=True), side(T_REJECTED, 2, same=True), dpo.Config(0.3, 0.1))
    assert got.tolist() == pytest.approx([math.log(2)] * B, abs=1e-15)


def test_the_gradient_is_the_papers():
    """−β·σ(−m)·(∇lp(y+) − ∇lp(y−)); and it agrees with finite differences."""
    chosen, rejected, config = side(T_CHOSEN, 1), side(T_REJECTED, 2), dpo.Config(0.2)
    margin = 0.2 * (chosen.logratios - rejected.logratios)
    (gradient,) = torch.autograd.grad(dpo.loss(chosen, rejected, config).sum(), chosen.token_logps)
    torch.testing.assert_close(gradient, (-0.2 * torch.sigmoid(-margin))[:, None].expand(B, T_CHOSEN))
    assert torch.autograd.gradcheck(
        lambda c, r: dpo.loss(
            Side(c, chosen.ref_token_logps, chosen.mask),
            Side(r, rejected.ref_token_logps, rejected.mask),
            config,
        ),
        (chosen.token_logps, rejected.token_logps),
    )


def test_extreme_margins_stay_finite():
    big = Side(torch.tensor([[-1e5]], requires_grad=True), torch.tensor([[0.0]]), torch.ones(1, 1))
    small = Side(torch.tensor([[0.0]]), torch.tensor([[-1e5]]), torch.ones(1, 1))
    loss = dpo.loss(big, small, dpo.Config(1.0))
    loss.sum().backward()
    assert loss.isfinite().all() and big.token_logps.grad.isfinite().all()


def test_the_recipe_chooses_and_what_is_wrong_is_named():
    objective = losses.choose(Train(options={"dpo": {"beta": 0.3}}))
    assert objective.name == "dpo" and objective.config == dpo.Config(0.3)
    for train, said in [
        (Train(loss="dpoo"), "did you mean 'dpo'"),
        (Train(options={"dpo": {"betta": 1.0}}), "no key 'betta'; did you mean 'beta'"),
        (Train(options={"dqo": {}}), "no loss has this name"),
        (Train(options={"dpo": {"beta": 0}}), r"\[train\.dpo\] beta = 0\.0: expected a number above 0"),
        (Train(options={"dpo": {"label_smoothing": 0.9}}), "expected a number of at least 0 and at most 0.5"),
    ]:
        with pytest.raises(UserError, match=said):
            losses.choose(train)
