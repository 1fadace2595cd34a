"""Sr-DPO and Sr-IPO (methods §3): the shifted oracle, finite differences, the laws; and score_margin, which
is another method."""

import math
from dataclasses import replace

import pytest
import torch

from schemas.errors import UserError
from schemas.sections import Train
from tests.trainer.test_dpo import T_CHOSEN, T_REJECTED, B, preference_loss, side
from tests.trainer.test_losses import sums
from trainer.losses import choose, dpo, ipo, score_margin, sr_dpo, sr_ipo


def under(t: int, seed: int, same: bool = False):
    """A side with the same response under the quality prompt, which has other log-probs."""
    one, quality = side(t, seed, same), side(t, seed + 100, same)
    return replace(
        one,
        quality=replace(
            quality,
            token_logps=quality.token_logps.detach() * one.mask,
            ref_token_logps=quality.ref_token_logps * one.mask,
            mask=one.mask,
        ),
    )


def gap(chosen, rejected):
    """h by loops, as a number without gradient."""
    (c, r, _), (q, s, _) = sums(chosen), sums(rejected)
    return ((c - r) - (q - s)).detach()


@pytest.mark.parametrize("lam", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("delta", ["live", "naive"])
def test_sr_dpo_is_dpos_oracle_with_its_argument_shifted(lam, delta):
    """Shifted by −λΔ/β, in the place where a constant moves the argument: the reference's chosen log-prob.
    Values and gradients."""
    chosen, rejected = under(T_CHOSEN, 1), under(T_REJECTED, 2)
    shift = lam * (gap(chosen.quality, rejected.quality) if delta == "live" else gap(chosen, rejected))
    got = sr_dpo.loss(chosen, rejected, sr_dpo.Config(0.3, lam, delta))
    (c, r, _), (q, s, _) = sums(chosen), sums(rejected)
    want = preference_loss(c, q, r + shift, s, 0.3)
    assert got.shape == (B,) and not torch.allclose(got, preference_loss(c, q, r, s, 0.3))
    same_in_values_and_gradients(got, want, chosen, rejected)


@pytest.mark.parametrize("scaling", ["printed", "derived"])
@pytest.mark.parametrize("delta", ["live", "naive"])
def test_sr_ipo_is_ipos_formula_shifted(scaling, delta):
    chosen, rejected = under(T_CHOSEN, 3), under(T_REJECTED, 4)
    big = gap(chosen.quality, rejected.quality) if delta == "live" else gap(chosen, rejected)
    got = sr_ipo.loss(chosen, rejected, sr_ipo.Config(0.2, 0.5, delta, scaling))
    (c, r, _), (q, s, _) = sums(chosen), sums(rejected)
    want = ((c - r) - (q - s) - 0.5 * (0.2 if scaling == "printed" else 1.0) * big - 2.5) ** 2
    same_in_values_and_gradients(got, want, chosen, rejected)


def same_in_values_and_gradients(got, want, chosen, rejected):
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
    inputs = (chosen.token_logps, rejected.token_logps)
    for a, b, one in zip(
        torch.autograd.grad(got.sum(), inputs),
        torch.autograd.grad(want.sum(), inputs),
        (chosen, rejected),
        strict=True,
    ):
        torch.testing.assert_close(a * one.mask, b * one.mask, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("module", "law"), [(sr_dpo, math.log(2)), (sr_ipo, (1 / 0.6) ** 2)])
def test_laws(module, law):
    start = under(T_CHOSEN, 1, same=True), under(T_REJECTED, 2, same=True)
    torch.testing.assert_close(
        module.loss(*start, module.Config(0.3, 0.5)), torch.full((B,), law, dtype=torch.float64)
    )
    chosen, rejected = under(T_CHOSEN, 1), under(T_REJECTED, 2)
    plain = {
        sr_dpo: dpo.loss(chosen, rejected, dpo.Config(0.3)),
        sr_ipo: ipo.loss(chosen, rejected, ipo.Config(0.3, "sum")),
    }[module]
    torch.testing.assert_close(module.loss(chosen, rejected, module.Config(0.3, 0.0)), plain)
    # at_start reaches the quality context too, or step 0's law would be wrong.
    torch.testing.assert_close(
        module.loss(chosen.at_start(), rejected.at_start(), module.Config(0.3, 0.5)),
        torch.full((B,), law, dtype=torch.float64),
    )


@pytest.mark.parametrize("module", [sr_dpo, sr_ipo])
def test_no_gradient_reaches_the_refinement_and_the_rest_is_right_by_finite_differences(module):
    chosen, rejected = under(5, 1), under(3, 2)
    # Even if somebody hands in a quality context with a graph.
    live = chosen.quality.token_logps.clone().requires_grad_()
    chosen = replace(chosen, quality=replace(chosen.quality, token_logps=live))

    def f(c, r):
        return module.loss(
            replace(chosen, token_logps=c), replace(rejected, token_logps=r), module.Config(0.3, 0.5)
        )

    f(chosen.token_logps, rejected.token_logps).sum().backward()
    assert live.grad is None
    assert torch.autograd.gradcheck(f, (chosen.token_logps, rejected.token_logps))


def test_naive_delta_has_dpos_direction_at_a_smaller_margin():
    """Δ on x itself is m: the loss is DPO's at (1−λ)m, its gradient that of the unscaled margin."""
    chosen, rejected = under(T_CHOSEN, 1), under(T_REJECTED, 2)
    got = sr_dpo.loss(chosen, rejected, sr_dpo.Config(0.3, 0.25, "naive"))
    torch.testing.assert_close(
        got, -torch.nn.functional.logsigmoid(0.75 * 0.3 * (chosen.logratios - rejected.logratios))
    )


def test_what_they_need_hangs_on_delta():
    for name in ("sr_dpo", "sr_ipo"):
        assert choose(Train(loss=name)).needs == ("quality",)
        assert choose(Train(loss=name, options={name: {"delta": "naive"}})).needs == ()
        with pytest.raises(UserError, match=rf"\[train\.{name}\] delta = life; did you mean 'live'"):
            choose(Train(loss=name, options={name: {"delta": "life"}}))


def test_score_margin_asks_for_a_margin_of_the_scores_gap():
    chosen, rejected = side(T_CHOSEN, 1), side(T_REJECTED, 2)
    scores = [torch.linspace(low, 3, B, dtype=torch.float64) for low in (-1, 2)]
    chosen, rejected = (
        replace(chosen, scores={"rating": scores[0]}),
        replace(rejected, scores={"rating": scores[1]}),
    )
    got = score_margin.loss(chosen, rejected, score_margin.Config(0.3, 0.7, "rating"))
    (c, r, _), (q, s, _) = sums(chosen), sums(rejected)
    same_in_values_and_gradients(
        got, preference_loss(c, q, r + 0.7 * (scores[0] - scores[1]) / 0.3, s, 0.3), chosen, rejected
    )
    torch.testing.assert_close(
        score_margin.loss(chosen, rejected, score_margin.Config(0.3, 0.0, "rating")),
        dpo.loss(chosen, rejected, dpo.Config(0.3)),
    )
    objective = choose(Train(loss="score_margin", options={"score_margin": {"scorer": "rating"}}))
    assert objective.needs == ("score.rating",)
    wrong = r"\[train\.score_margin\] scorer = ratings: did you mean 'rating'"
    with pytest.raises(UserError, match=wrong):
        choose(Train(loss="score_margin", options={"score_margin": {"scorer": "ratings"}}))
