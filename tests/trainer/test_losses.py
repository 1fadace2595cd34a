"""Every loss against its law and an independent formula, values and gradients; B ≠ T of either side."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from schemas.errors import UserError
from schemas.sections import Train
from tests.trainer.test_dpo import B, T_CHOSEN, T_REJECTED, side
from trainer import losses
from trainer.losses import LOSSES, choose, described, dpo, dpop, hinge, ipo, ld_dpo, length_normalised_dpo, orpo, r_dpo, robust_dpo, rpo, simpo, wpo
from trainer.losses.side import Side


def sums(s):
    """(lp_π, lp_ref, length) of each response, by loops: nothing shared with the code under test."""
    rows = zip(s.token_logps, s.ref_token_logps, s.mask, strict=True)
    return torch.stack([torch.stack([sum(p[m > 0]), sum(r[m > 0]), (m > 0).sum().double()]) for p, r, m in rows]).T


# The formulas as papers, the DPO authors (ipo by sum) and TRL 1.16 (ipo by mean, robust, hinge, sigmoid_norm) write them: on (lp, ref, n) of both sides.
FORMULAS = {
    "robust_dpo": (robust_dpo.Config(0.3, 0.2), lambda c, r, n, q, s, m: (-(0.8) * F.logsigmoid(0.3 * (c - r - q + s)) + 0.2 * F.logsigmoid(-0.3 * (c - r - q + s))) / 0.6),
    "ipo": (ipo.Config(0.2), lambda c, r, n, q, s, m: ((c - r) / n - (q - s) / m - 1 / 0.4) ** 2),
    "ipo_sum": (ipo.Config(0.2, "sum"), lambda c, r, n, q, s, m: ((c - q) - (r - s) - 1 / (2 * 0.2)) ** 2),
    "rpo": (rpo.Config(0.3, 0.05), lambda c, r, n, q, s, m: -F.logsigmoid(0.3 * (c - r - q + s)) - c * 0.3 * 0.05),
    "rpo_mean": (rpo.Config(0.5, 0.2, "mean"), lambda c, r, n, q, s, m: -F.logsigmoid(0.5 * (c - r - q + s)) - 0.2 * c / n),
    "simpo": (simpo.Config(2.0, 0.6), lambda c, r, n, q, s, m: -F.logsigmoid(2.0 * (c / n - q / m - 0.3))),
    "orpo": (orpo.Config(0.4), lambda c, r, n, q, s, m: -c / n + 0.4 * torch.log(1 + torch.exp(q / m) / (1 - torch.exp(q / m)) * (1 - torch.exp(c / n)) / torch.exp(c / n))),
    "hinge": (hinge.Config(0.3), lambda c, r, n, q, s, m: torch.clamp(1 - 0.3 * (c - r - q + s), min=0)),
    "length_normalised_dpo": (length_normalised_dpo.Config(3.0), lambda c, r, n, q, s, m: -F.logsigmoid(3.0 * ((c - r) / n - (q - s) / m))),
    "dpop": (dpop.Config(0.3, 5.0), lambda c, r, n, q, s, m: -F.logsigmoid(0.3 * ((c - r) - (q - s) - 5.0 * torch.clamp(r - c, min=0)))),
    "r_dpo": (r_dpo.Config(0.3, 0.07), lambda c, r, n, q, s, m: -F.logsigmoid(0.3 * (c - r - q + s) + 0.07 * (n - m))),
    "wpo": (wpo.Config(0.3), lambda c, r, n, q, s, m: -(torch.exp(c / n) * torch.exp(q / m)).detach() * F.logsigmoid(0.3 * (c - r - q + s))),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_gradients_are_the_formulas(name):
    config, formula = FORMULAS[name]
    module = LOSSES[name.removesuffix("_sum").removesuffix("_mean")]
    chosen, rejected = side(T_CHOSEN, 11), side(T_REJECTED, 12)
    got, want = module.loss(chosen, rejected, config), formula(*sums(chosen), *sums(rejected))
    assert got.shape == (B,) and len({round(value, 9) for value in got.tolist()}) > 2
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
    inputs = (chosen.token_logps, rejected.token_logps)
    for a, b, s in zip(torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(want.sum(), inputs), (chosen, rejected), strict=True):
        torch.testing.assert_close(a * s.mask, b * s.mask, atol=1e-9, rtol=1e-9)


def test_every_loss_has_a_formula_here():
    assert {name.removesuffix("_sum").removesuffix("_mean") for name in FORMULAS} | {"dpo", "ld_dpo", "bmc", "ipo_bmc"} == set(LOSSES)  # the last two in test_bmc.py


def test_what_each_reduces_to():
    chosen, rejected = side(T_CHOSEN, 1), side(T_REJECTED, 2)
    want = dpo.loss(chosen, rejected, dpo.Config(0.3))
    for module, config in ((rpo, rpo.Config(0.3, 0.0)), (robust_dpo, robust_dpo.Config(0.3, 0.0)), (dpop, dpop.Config(0.3, 0.0)), (r_dpo, r_dpo.Config(0.3, 0.0)), (ld_dpo, ld_dpo.Config(0.3, 1.0))):
        torch.testing.assert_close(module.loss(chosen, rejected, config), want)


def test_ld_dpo_with_alpha_0_forgets_what_is_longer():
    chosen, rejected = side(T_CHOSEN, 1), side(T_REJECTED, 2)
    short = torch.minimum(chosen.lengths, rejected.lengths)

    def cut(s):
        mask = s.mask * (torch.arange(s.mask.shape[1]) < short[:, None])
        return Side(s.token_logps * mask, s.ref_token_logps * mask, mask)

    torch.testing.assert_close(ld_dpo.loss(chosen, rejected, ld_dpo.Config(0.3, 0.0)), dpo.loss(cut(chosen), cut(rejected), dpo.Config(0.3)))


def test_laws_at_step_0():
    chosen, rejected = side(T_CHOSEN, 1, same=True), side(T_REJECTED, 2, same=True)
    nll = -sums(chosen)[0]
    laws = {"dpo": (dpo.Config(0.3), math.log(2)), "ipo": (ipo.Config(0.2), 1 / (2 * 0.2) ** 2), "rpo": (rpo.Config(0.3, 0.05), math.log(2) + 0.05 * 0.3 * nll), "hinge": (hinge.Config(), 1.0)}
    laws["ipo"] = (ipo.Config(0.2), (1 / (2 * 0.2)) ** 2)
    for name, (config, law) in laws.items():
        torch.testing.assert_close(LOSSES[name].loss(chosen, rejected, config), torch.as_tensor(law).double().expand(B))


def bandit(loss, config, steps=4000):
    """Two actions, a uniform reference, y1 always preferred: π(y1) after descent on the exact loss."""
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.02)
    ref = torch.full((1, 1), math.log(0.5), dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(Side(F.logsigmoid(theta).reshape(1, 1), ref, one), Side(F.logsigmoid(-theta).reshape(1, 1), ref, one), config).sum().backward()
        optimizer.step()
    return torch.sigmoid(theta).item()


@pytest.mark.parametrize("beta", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ipo_stops_at_its_optimum_where_dpo_runs_past_it(beta, reduction):
    optimum = 1 / (1 + math.exp(-1 / (2 * beta)))
    assert bandit(ipo.loss, ipo.Config(beta, reduction)) == pytest.approx(optimum, abs=1e-3)
    assert bandit(dpo.loss, dpo.Config(beta)) > max(optimum, 0.99)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_by_finite_differences_and_extremes_stay_finite(name):
    module = LOSSES[name]
    config = module.Config()
    chosen, rejected = side(5, 1), side(3, 2)

    def f(c, r):
        return module.loss(replace(chosen, token_logps=c), replace(rejected, token_logps=r), config)

    if name not in ("wpo", "bmc", "ipo_bmc"):  # their weights are no function for the gradient
        assert torch.autograd.gradcheck(f, (chosen.token_logps, rejected.token_logps))
    for low, high in ((-1e4, 0.0), (0.0, -1e4), (0.0, 0.0)):
        a, b = torch.tensor([[low]], requires_grad=True), torch.tensor([[high]], requires_grad=True)
        one = torch.ones(1, 1)
        value = module.loss(Side(a, torch.tensor([[-1.0]]), one, one), Side(b, torch.tensor([[-2.0]]), one, one), config)
        value.sum().backward()
        assert value.isfinite().all() and a.grad.isfinite().all() and b.grad.isfinite().all(), (low, high)


def test_an_sft_term_composes_with_any():
    chosen, rejected = side(T_CHOSEN, 1), side(T_REJECTED, 2)
    lp, _, n = sums(chosen)
    for kind, nll in (("sum", -lp), ("mean", -lp / n)):
        objective = choose(Train(loss="ipo", options={"ipo": {"beta": 0.2}, "sft": {"weight": 0.3, "kind": kind}}))
        torch.testing.assert_close(objective(chosen, rejected), ipo.loss(chosen, rejected, ipo.Config(0.2)) + 0.3 * nll)
    # RPO is DPO with an SFT term of weight ηβ.
    by_hand = choose(Train(loss="dpo", options={"dpo": {"beta": 0.3}, "sft": {"weight": 0.3 * 0.05, "kind": "sum"}}))
    torch.testing.assert_close(by_hand(chosen, rejected), rpo.loss(chosen, rejected, rpo.Config(0.3, 0.05)))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_describes_itself(name):
    what, equation, keys = described(name)
    assert what.endswith((".", ":")) or ":" in what
    assert any(line.startswith("L = ") for line in equation) and keys
    assert "arXiv" in what or name == "hinge"


@pytest.mark.parametrize("name", LOSSES)
def test_wrong_settings_are_refused(name):
    key = "beta"
    with pytest.raises(UserError, match=f"the loss's {key} = -1"):
        losses.choose(Train(loss=name, options={name: {key: -1}}))


def test_a_new_loss_is_one_file_and_one_word(monkeypatch):
    """As the README's "Add a loss" says."""
    import types

    module = types.ModuleType("trainer.losses.mine")
    exec(README_LOSS, module.__dict__)
    monkeypatch.setitem(LOSSES, "mine", module)
    chosen, rejected = side(T_CHOSEN, 1), side(T_REJECTED, 2)
    value = choose(Train(loss="mine", options={"mine": {"beta": 0.5}}))(chosen, rejected)
    assert value.shape == (B,) and value.isfinite().all()


def _readme_loss():
    import re

    from tests.conftest import ROOT

    return re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


README_LOSS = _readme_loss()
