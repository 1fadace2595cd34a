"""Every loss against its law and an independent formula, values and gradients; B ≠ T of either side."""

import dataclasses
import math
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from schemas.errors import UserError
from schemas.sections import Train
from tests.conftest import RECIPE, ROOT, command, settings
from tests.pages import blocks
from tests.trainer.test_dpo import T_CHOSEN, T_REJECTED, B, side
from trainer.losses import (
    NAMES,
    choose,
    described,
    dpo,
    dpop,
    hinge,
    ipo,
    ld_dpo,
    length_normalised_dpo,
    loss_module,
    orpo,
    r_dpo,
    robust_dpo,
    rpo,
    simpo,
    sr_dpo,
    wpo,
)
from trainer.losses.side import Side


def sums(s):
    """(lp_π, lp_ref, length) of each response, by loops: nothing shared with the code under test."""
    rows = zip(s.token_logps, s.ref_token_logps, s.mask, strict=True)
    return torch.stack(
        [torch.stack([sum(p[m > 0]), sum(r[m > 0]), (m > 0).sum().double()]) for p, r, m in rows]
    ).T


# The formulas as papers, the DPO authors (ipo by sum) and TRL 1.16 (ipo by mean, robust, hinge, sigmoid_norm)
# write them: on (lp, ref, n) of both sides.
FORMULAS = {
    "robust_dpo": (
        robust_dpo.Config(0.3, 0.2),
        lambda c, r, n, q, s, m: (
            (-(0.8) * F.logsigmoid(0.3 * (c - r - q + s)) + 0.2 * F.logsigmoid(-0.3 * (c - r - q + s))) / 0.6
        ),
    ),
    "ipo": (ipo.Config(0.2), lambda c, r, n, q, s, m: ((c - r) / n - (q - s) / m - 1 / 0.4) ** 2),
    "ipo_sum": (ipo.Config(0.2, "sum"), lambda c, r, n, q, s, m: ((c - q) - (r - s) - 1 / (2 * 0.2)) ** 2),
    "rpo": (
        rpo.Config(0.3, 0.05),
        lambda c, r, n, q, s, m: -F.logsigmoid(0.3 * (c - r - q + s)) - c * 0.3 * 0.05,
    ),
    "rpo_mean": (
        rpo.Config(0.5, 0.2, "mean"),
        lambda c, r, n, q, s, m: -F.logsigmoid(0.5 * (c - r - q + s)) - 0.2 * c / n,
    ),
    "simpo": (simpo.Config(2.0, 0.6), lambda c, r, n, q, s, m: -F.logsigmoid(2.0 * (c / n - q / m - 0.3))),
    "orpo": (
        orpo.Config(0.4),
        lambda c, r, n, q, s, m: (
            -c / n
            + 0.4
            * torch.log(
                1 + torch.exp(q / m) / (1 - torch.exp(q / m)) * (1 - torch.exp(c / n)) / torch.exp(c / n)
            )
        ),
    ),
    "hinge": (hinge.Config(0.3), lambda c, r, n, q, s, m: torch.clamp(1 - 0.3 * (c - r - q + s), min=0)),
    "length_normalised_dpo": (
        length_normalised_dpo.Config(3.0),
        lambda c, r, n, q, s, m: -F.logsigmoid(3.0 * ((c - r) / n - (q - s) / m)),
    ),
    "dpop": (
        dpop.Config(0.3, 5.0),
        lambda c, r, n, q, s, m: -F.logsigmoid(0.3 * ((c - r) - (q - s) - 5.0 * torch.clamp(r - c, min=0))),
    ),
    "r_dpo": (
        r_dpo.Config(0.3, 0.07),
        lambda c, r, n, q, s, m: -F.logsigmoid(0.3 * (c - r - q + s) + 0.07 * (n - m)),
    ),
    "wpo": (
        wpo.Config(0.3),
        lambda c, r, n, q, s, m: (
            -(torch.exp(c / n) * torch.exp(q / m)).detach() * F.logsigmoid(0.3 * (c - r - q + s))
        ),
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_gradients_are_the_formulas(name):
    config, formula = FORMULAS[name]
    module = loss_module(name.removesuffix("_sum").removesuffix("_mean"))
    chosen, rejected = side(T_CHOSEN, 11), side(T_REJECTED, 12)
    got, want = module.loss(chosen, rejected, config), formula(*sums(chosen), *sums(rejected))
    assert got.shape == (B,) and len({round(value, 9) for value in got.tolist()}) > 2
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
    inputs = (chosen.token_logps, rejected.token_logps)
    for a, b, s in zip(
        torch.autograd.grad(got.sum(), inputs),
        torch.autograd.grad(want.sum(), inputs),
        (chosen, rejected),
        strict=True,
    ):
        torch.testing.assert_close(a * s.mask, b * s.mask, atol=1e-9, rtol=1e-9)


def test_every_loss_has_a_formula_here():
    assert {name.removesuffix("_sum").removesuffix("_mean") for name in FORMULAS} | {
        "dpo",
        "ld_dpo",
        "bmc",
        "ipo_bmc",
        "sr_dpo",
        "sr_ipo",
        "score_margin",
    } == set(NAMES)  # the last ones in test_bmc.py and test_sr.py


def test_what_each_reduces_to():
    chosen, rejected = side(T_CHOSEN, 1), side(T_REJECTED, 2)
    want = dpo.loss(chosen, rejected, dpo.Config(0.3))
    for module, config in (
        (rpo, rpo.Config(0.3, 0.0)),
        (robust_dpo, robust_dpo.Config(0.3, 0.0)),
        (dpop, dpop.Config(0.3, 0.0)),
        (r_dpo, r_dpo.Config(0.3, 0.0)),
        (ld_dpo, ld_dpo.Config(0.3, 1.0)),
    ):
        torch.testing.assert_close(module.loss(chosen, rejected, config), want)


def test_ld_dpo_with_alpha_0_forgets_what_is_longer():
    chosen, rejected = side(T_CHOSEN, 1), side(T_REJECTED, 2)
    short = torch.minimum(chosen.lengths, rejected.lengths)

    def cut(s):
        mask = s.mask * (torch.arange(s.mask.shape[1]) < short[:, None])
        return Side(s.token_logps * mask, s.ref_token_logps * mask, mask)

    torch.testing.assert_close(
        ld_dpo.loss(chosen, rejected, ld_dpo.Config(0.3, 0.0)),
        dpo.loss(cut(chosen), cut(rejected), dpo.Config(0.3)),
    )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_rpos_baseline_is_held_up_in_the_chosen_ones_place(reduction):
    chosen, rejected, baseline = side(T_CHOSEN, 1), side(T_REJECTED, 2), side(T_CHOSEN + 4, 3)
    config = rpo.Config(0.3, 0.05, reduction, "baseline")
    got = rpo.loss(replace(chosen, baseline=baseline), rejected, config)
    (c, r, _), (q, s, _), (b, _, n) = sums(chosen), sums(rejected), sums(baseline)
    want = -F.logsigmoid(0.3 * (c - r - q + s)) - (0.3 * 0.05 * b if reduction == "sum" else 0.05 * b / n)
    torch.testing.assert_close(got, want, atol=1e-9, rtol=1e-9)
    inputs = (chosen.token_logps, rejected.token_logps, baseline.token_logps)
    for a, b, one in zip(
        torch.autograd.grad(got.sum(), inputs),
        torch.autograd.grad(want.sum(), inputs),
        (chosen, rejected, baseline),
        strict=True,
    ):
        torch.testing.assert_close(a * one.mask, b * one.mask, atol=1e-9, rtol=1e-9)
    assert (
        choose(Train(loss="rpo", options={"rpo": {"y0": "baseline"}})).needs == ("baseline",)
        and choose(Train(loss="rpo")).needs == ()
    )


def test_laws_at_step_0():
    chosen, rejected = side(T_CHOSEN, 1, same=True), side(T_REJECTED, 2, same=True)
    nll = -sums(chosen)[0]
    laws = {
        "dpo": (dpo.Config(0.3), math.log(2)),
        "ipo": (ipo.Config(0.2), 1 / (2 * 0.2) ** 2),
        "rpo": (rpo.Config(0.3, 0.05), math.log(2) + 0.05 * 0.3 * nll),
        "hinge": (hinge.Config(), 1.0),
    }
    laws["ipo"] = (ipo.Config(0.2), (1 / (2 * 0.2)) ** 2)
    for name, (config, law) in laws.items():
        torch.testing.assert_close(
            loss_module(name).loss(chosen, rejected, config), torch.as_tensor(law).double().expand(B)
        )


def bandit(loss, config, steps=4000):
    """Two actions, a uniform reference, y1 always preferred: π(y1) after descent on the exact loss."""
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.02)
    ref = torch.full((1, 1), math.log(0.5), dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(
            Side(F.logsigmoid(theta).reshape(1, 1), ref, one),
            Side(F.logsigmoid(-theta).reshape(1, 1), ref, one),
            config,
        ).sum().backward()
        optimizer.step()
    return torch.sigmoid(theta).item()


@pytest.mark.parametrize("beta", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ipo_stops_at_its_optimum_where_dpo_runs_past_it(beta, reduction):
    optimum = 1 / (1 + math.exp(-1 / (2 * beta)))
    assert bandit(ipo.loss, ipo.Config(beta, reduction)) == pytest.approx(optimum, abs=1e-3)
    assert bandit(dpo.loss, dpo.Config(beta)) > max(optimum, 0.99)


def whole(t, seed):
    """A side with all that any loss needs."""
    one, quality = side(t, seed), side(t, seed, same=True)
    return replace(
        one,
        quality=replace(quality, token_logps=0.9 * quality.ref_token_logps),
        scores={"prompt_gain": torch.linspace(-1, 2, B).double()},
        baseline=side(t + 2, seed + 50),
    )


@pytest.mark.parametrize("name", NAMES)
def test_gradients_by_finite_differences_and_extremes_stay_finite(name):
    module = loss_module(name)
    config = module.Config()
    chosen, rejected = whole(5, 1), whole(3, 2)

    def f(c, r):
        return module.loss(replace(chosen, token_logps=c), replace(rejected, token_logps=r), config)

    if name not in ("wpo", "bmc", "ipo_bmc"):  # their weights are no function for the gradient
        assert torch.autograd.gradcheck(f, (chosen.token_logps, rejected.token_logps))
    for low, high in ((-1e4, 0.0), (0.0, -1e4), (0.0, 0.0)):
        a, b = torch.tensor([[low]], requires_grad=True), torch.tensor([[high]], requires_grad=True)
        one = torch.ones(1, 1)
        quality, scores = Side(a.detach(), torch.tensor([[-3.0]]), one), {"prompt_gain": torch.tensor([high])}
        value = module.loss(
            Side(a, torch.tensor([[-1.0]]), one, one, quality, scores),
            Side(b, torch.tensor([[-2.0]]), one, one, quality, scores),
            config,
        )
        value.sum().backward()
        assert value.isfinite().all() and a.grad.isfinite().all() and b.grad.isfinite().all(), (low, high)


def test_an_sft_term_composes_with_any():
    chosen, rejected = side(T_CHOSEN, 1), side(T_REJECTED, 2)
    lp, _, n = sums(chosen)
    for reduction, nll in (("sum", -lp), ("mean", -lp / n)):
        term = {"weight": 0.3, "reduction": reduction}
        objective = choose(Train(loss="ipo", options={"ipo": {"beta": 0.2}, "sft": term}))
        torch.testing.assert_close(
            objective(chosen, rejected), ipo.loss(chosen, rejected, ipo.Config(0.2)) + 0.3 * nll
        )
        # With one whose own loss needs more than the two responses, too.
        both = whole(T_CHOSEN, 1), whole(T_REJECTED, 2)
        objective = choose(Train(loss="sr_dpo", options={"sft": term}))
        torch.testing.assert_close(objective(*both), sr_dpo.loss(*both, sr_dpo.Config()) + 0.3 * nll)
    # RPO is DPO with an SFT term of weight ηβ.
    term = {"weight": 0.3 * 0.05, "reduction": "sum"}
    by_hand = choose(Train(loss="dpo", options={"dpo": {"beta": 0.3}, "sft": term}))
    torch.testing.assert_close(by_hand(chosen, rejected), rpo.loss(chosen, rejected, rpo.Config(0.3, 0.05)))


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_describes_itself(name):
    what, equation, keys, needs = described(name)
    assert bool(needs) == (name in ("sr_dpo", "sr_ipo", "bmc", "ipo_bmc", "score_margin"))
    assert what.endswith((".", ":")) or ":" in what
    assert any(line.startswith("L = ") for line in equation) and keys
    assert "arXiv" in what or name == "hinge"


@pytest.mark.parametrize("name", NAMES)
def test_wrong_settings_are_refused(name):
    with pytest.raises(UserError, match=rf"\[train\.{name}\] beta = -1\.0: expected a number above 0"):
        choose(Train(loss=name, options={name: {"beta": -1}}))


def test_r_dpos_alpha_may_be_below_0_but_is_finite():
    assert choose(Train(loss="r_dpo", options={"r_dpo": {"alpha": -1.0}})).config.alpha == -1.0
    for value in (math.nan, math.inf):
        with pytest.raises(UserError, match=rf"\[train\.r_dpo\] alpha = {value}: expected a finite number"):
            choose(Train(loss="r_dpo", options={"r_dpo": {"alpha": value}}))


def test_bmcs_delta_may_be_infinite_but_is_a_number():
    assert choose(Train(loss="bmc", options={"bmc": {"delta": math.inf}})).config.delta == math.inf
    with pytest.raises(UserError, match=r"\[train\.bmc\] delta = nan: expected a number of at least 0"):
        choose(Train(loss="bmc", options={"bmc": {"delta": math.nan}}))


@pytest.mark.parametrize(("table", "loss", "former"), [("rpo", "rpo", "sft"), ("sft", "dpo", "kind")])
def test_a_former_word_is_the_same_setting(table, loss, former):
    """Recipes may use the word that `reduction` had; the SFT term's facts keep it: earlier folders stay."""

    def objective(**options):
        return choose(Train(loss=loss, options={table: options}))

    for value in ("sum", "mean"):
        now, then = objective(reduction=value), objective(**{former: value})
        assert now == then and now.facts() == then.facts()
        term = now.facts()["sft"]
        assert term == {"weight": 0.0, "kind": value if table == "sft" else "mean"}
        assert "reduction" not in term
    both = rf"\[train\.{table}\] has 'reduction' and '{former}', which are one setting: keep 'reduction'"
    for options in ({"reduction": "sum", former: "mean"}, {former: "sum", "reduction": "sum"}):
        with pytest.raises(UserError, match=both):
            objective(**options)
    with pytest.raises(UserError, match=rf"\[train\.{table}\] reduction = meen; did you mean 'mean'"):
        objective(**{former: "meen"})


def test_reading_options_does_not_wait_for_torch():
    """`engine precompute` checks the chosen loss's options before anything else."""
    code = (
        "import sys; from schemas.sections import Train; from trainer.losses import NAMES, choose; "
        "[choose(Train(loss=name)).needs for name in NAMES]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_only_the_chosen_loss_is_imported():
    code = (
        "import sys; from schemas.sections import Train; from trainer.losses import NAMES, choose; "
        "choose(Train(loss='hinge')); print(*[n for n in NAMES if f'trainer.losses.{n}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "hinge\n", done.stderr


def test_a_new_loss_is_one_file_and_one_word(made_run, tmp_path):
    """As the page on adding a loss says, in a copy of the project: it trains, and `trainer losses` lists
    it."""
    (block,) = blocks("python", page=ROOT / "pipelines" / "docs" / "adding.md")
    shutil.copytree(ROOT / "trainer", tmp_path / "trainer")
    for name in ("schemas", "pipelines"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "trainer" / "losses" / "mine.py").write_text(block.text)
    names = tmp_path / "trainer" / "losses" / "__init__.py"
    names.write_text(names.read_text().replace('"wpo",', '"wpo", "mine",'))
    shutil.copytree(made_run, tmp_path / "run")
    words = settings(
        train__loss="mine",
        train__mine__beta=0.5,
        train__max_steps=2,
        train__batch_size=8,
        train__tolerance=0.01,
    )
    said = command("trainer", "run", RECIPE, "-o", tmp_path / "run", *words, cwd=tmp_path).stdout
    assert "mine on pairs-" in said and f"step 0: loss {math.log(1 + math.e):.6f}" in said
    assert "L = softplus(1 − m)" in command("trainer", "losses", cwd=tmp_path).stdout


def test_every_setting_of_a_loss_is_a_fact():
    """Or two runs that differ in it would share a folder, and the second would be found finished."""
    for name in NAMES:
        default = choose(Train(loss=name))
        for field in dataclasses.fields(default.config):
            value = getattr(default.config, field.name)
            others = {"mean": "sum", "sum": "mean", "paper": "code", "live": "naive", "printed": "derived"}
            others |= {"chosen": "baseline", "prompt_gain": "rating"}
            other = others[value] if isinstance(value, str) else value / 2 + 0.01
            changed = choose(Train(loss=name, options={name: {field.name: other}}))
            assert changed.facts() != default.facts(), f"{name}.{field.name}"


def test_rpos_facts_by_default_are_those_it_always_had():
    assert choose(Train(loss="rpo")).facts() == {
        "name": "rpo",
        "beta": 0.05,
        "eta": 0.005,
        "y0": "chosen",
        "sft": {"weight": 0.0, "kind": "mean"},
    }
