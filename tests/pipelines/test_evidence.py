"""What evidence is made with: intervals, verdicts, the search; and a claim tried from end to end."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from pipelines.evidence import caches, claims, intervals, real, trial, work
from pipelines.evidence.__main__ import main
from pipelines.evidence.arms import BETAS, DPO, FIRST_BETA, LEARNING_RATES, SCORE_MARGIN, SFT, Tuned
from pipelines.evidence.claims import dpo as dpo_claim
from pipelines.evidence.intervals import Interval
from pipelines.evidence.search import search
from pipelines.evidence.setting import SEARCH_SEEDS, VARIANTS, Setting, folder_of
from pipelines.evidence.verdicts import REFUTED, SHOWN, UNDECIDED, Verdict
from pipelines.evidence.work import Made
from pipelines.sandbox import world
from schemas.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_intervals_cover_the_truth_about_as_often_as_they_say(monkeypatch):
    """Of tables with effects of seeds and of problems; the two-way bootstrap errs on the wide side."""
    monkeypatch.setattr(intervals, "DRAWS", 400)
    monkeypatch.setattr(intervals, "_VARIANCE_DRAWS", 2)
    draw = np.random.default_rng(0)
    truth, tries, covered = 0.3, 150, 0
    for number in range(tries):
        of_seeds, of_problems = draw.normal(size=(8, 1)), draw.normal(size=(1, 30))
        values = truth + 0.5 * of_seeds + 0.5 * of_problems + draw.normal(size=(8, 30))
        found = intervals.of_mean(values, seed=number)
        covered += found.low <= truth <= found.high
        assert found.low <= found.mean <= found.high and found.seeds == 8
    assert 0.86 <= covered / tries <= 1


def test_more_seeds_make_narrower_intervals_and_so_say_how_many_decide():
    draw = np.random.default_rng(1)
    values = 0.1 + draw.normal(size=(400,))
    few, many = intervals.of_mean(values[:40]), intervals.of_mean(values)
    assert many.half == pytest.approx(few.half / math.sqrt(10), rel=0.4)
    assert Interval(0.1, -0.1, 0.3, 5).seeds_to_decide() == 20
    assert Interval(0.001, -1, 1, 5).seeds_to_decide() is None
    assert Interval(0.0, -1, 1, 5).seeds_to_decide() is None
    assert Interval(0.1, -0.1, 0.3, 5, of_problems=0.2).seeds_to_decide() is None
    with_some = Interval(0.1, -0.1, 0.3, 5, of_problems=0.05).seeds_to_decide()
    assert with_some == math.ceil(5 * (0.2**2 - 0.05**2) / (0.1**2 - 0.05**2))


@pytest.mark.parametrize(("of_seeds", "of_problems", "of_both"), [(0.3, 2, 1), (0.0, 0, 4), (0.2, 1, 4)])
def test_what_more_seeds_cannot_take_away_is_what_the_problems_bring(of_seeds, of_problems, of_both):
    """Effects of seeds, of problems and of a problem in one seed: only the second stays, with any seeds."""
    draw = np.random.default_rng(4)
    seeds, problems = 6, 900
    values = of_seeds * draw.normal(size=(seeds, 1)) + of_problems * draw.normal(size=(1, problems))
    values = values + of_both * draw.normal(size=(seeds, problems))
    found = intervals.of_mean(values)
    of_one_and_all = 1.96 * of_both / math.sqrt(seeds * problems)
    assert found.of_problems == pytest.approx(1.96 * of_problems / math.sqrt(problems), abs=of_one_and_all)
    assert found.of_problems < found.half or of_seeds == 0


def test_problems_that_were_not_measured_are_left_out():
    values = np.array([[1.0, np.nan, 3.0], [1.0, 2.0, np.nan]])
    assert intervals.of_mean(np.tile(values, 20)).mean == pytest.approx(7 / 4)


def test_correlations_are_those_of_numpy_by_seed():
    draw = np.random.default_rng(2)
    values = draw.normal(size=(3, 20, 3))
    values[0, 4, 1] = np.nan
    own = []
    for seed in range(3):
        known = [number for number in range(20) if (seed, number) != (0, 4)]
        one = np.corrcoef(values[seed, :, 0], values[seed, :, 2])[0, 1]
        other = np.corrcoef(values[seed, known, 1], values[seed, known, 2])[0, 1]
        own.append(one - other)
    assert intervals.gain_in_correlation(values) == pytest.approx(np.mean(own))


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [(0.1, 0.3, SHOWN), (-0.3, -0.1, REFUTED), (-0.1, 0.2, UNDECIDED), (0.0, 0.2, UNDECIDED)],
)
def test_a_verdict_is_what_the_interval_leaves_no_doubt_of(low, high, says):
    verdict = Verdict("dpo", "it is better", Interval((low + high) / 2, low, high, 5), "reward")
    assert verdict.says == says
    assert ("seeds would decide" in verdict.in_words) == (says == UNDECIDED)
    assert (verdict.row()["seeds_to_decide"] is not None) == (says == UNDECIDED)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_the_best_of_n_is_counted_over_all_choices_of_n(n):
    many = 16
    rewards = np.sort(np.random.default_rng(3).normal(size=many))
    weights = [dpo_claim._chance_to_be_best(rank, n) for rank in range(many)]
    assert sum(weights) == pytest.approx(1)
    every = [max(chosen) for chosen in itertools.combinations(rewards, n)]
    assert np.dot(rewards, weights) == pytest.approx(np.mean(every))


def test_the_frontier_is_a_line_between_its_points():
    of_seed = np.array([0.0, 2.0, 1.0, 0.5, 0.9, 0.7])  # KL of three points, then their rewards
    assert dpo_claim._frontier(of_seed, 1.0) == pytest.approx(0.7)
    assert dpo_claim._frontier(of_seed, 1.5) == pytest.approx(0.8)
    assert dpo_claim._frontier(of_seed, 9.0) == pytest.approx(0.9)


def test_every_method_is_searched_on_a_variant_that_there_is():
    for name in claims.NAMES:
        for method in claims.claim(name).methods:
            assert method.variant in VARIANTS


@pytest.mark.parametrize("method", [DPO, SFT, SCORE_MARGIN])
@pytest.mark.parametrize(("rate", "beta"), itertools.product(LEARNING_RATES, BETAS))
def test_the_search_takes_the_best_learning_rate_and_then_the_best_beta(monkeypatch, method, rate, beta):
    """The reward falls with the distance from (rate, beta), by the mean of two seeds; SFT has no β."""
    tried = []

    def trained(what, function, jobs, out, workers):
        tried.extend((arm.learning_rate, arm.beta, seed) for _, seed, arm, _ in jobs)
        return [made_for(arm, seed) for _, seed, arm, _ in jobs]

    def made_for(arm, seed):
        luck = 5 * np.sin(1e5 * arm.learning_rate + arm.beta) * (1 if seed == SEARCH_SEEDS[0] else -1)
        away = abs(np.log(arm.learning_rate / rate)) + abs(np.log(arm.beta / beta)) + luck
        samples = pl.DataFrame({"reward": [-away], "logps": [-2.0], "ref_logps": [-3.0]})
        return Made(Path(), {9: samples}, {}, (2, 1))

    monkeypatch.setattr(work, "all_of", trained)
    monkeypatch.setattr(pl, "read_parquet", lambda frame: frame)
    found = search(Path(), [method], Setting())
    wanted = (rate, beta if method.has_beta else FIRST_BETA)
    assert (found.of(method).learning_rate, found.of(method).beta) == wanted
    cells = 5 if method.has_beta else 3
    assert len(found.table) == cells and len(tried) == len(set(tried)) == cells * len(SEARCH_SEEDS)
    assert set(found.table["kl"]) == {1.0} and set(found.table["seconds"]) == {6.0}


def test_arms_that_are_trained_alike_are_trained_once():
    one = Tuned(DPO, 1e-4, 0.3)
    arms = [one.arm(), one.arm("another name"), one.arm("certain", "certain"), one.arm("β 1", beta=1.0)]
    alike = trial._alike(arms)
    assert list(alike) == arms
    assert [alike[arm] for arm in arms] == [arms[0], arms[0], arms[2], arms[3]]


def test_claims_name_themselves_and_at_least_five_seeds_judge_them():
    assert Setting().seeds >= 5
    for name in claims.NAMES:
        found = claims.claim(name)
        assert found.name == name and found.says and found.setting and found.title
    assert len({folder_of(variant) for variant in VARIANTS}) == len(VARIANTS)


def test_the_command_lists_its_claims_and_refuses_others():
    listed = CliRunner().invoke(main, ["--list"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.output.splitlines()] == [*claims.NAMES, "real"]
    refused = CliRunner().invoke(main, ["ipx"])
    assert refused.exit_code != 0 and "ipx" in refused.output and "ipo" in refused.output


def asked(out, *words):
    command = [sys.executable, "-m", "pipelines.evidence", *words, "-o", str(out), "--seeds", "2"]
    command += ["--problems", "60", "--test-problems", "12"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def queried(out, query):
    command = [sys.executable, "-m", "engine.cli", "sql", str(out), query, "--format", "json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.long
def test_a_claim_from_end_to_end_and_nothing_of_it_twice(tmp_path):
    """Two seeds and few problems: what is said is too little to decide, but all of it is there."""
    out = tmp_path / "evidence"
    said = asked(out, "reuse")
    assert "## Reuse" in said and "| question | verdict |" in said
    verdicts = queried(out, "select verdict, seeds from verdicts")
    assert len(verdicts) == 2 and {row["seeds"] for row in verdicts} == {2}
    samples = queried(
        out,
        "select arm, seed, count(*) as n, avg(kl) as kl from samples join prompts using (prompt_id) "
        "group by all",
    )
    assert {row["n"] for row in samples} == {12 * Setting().samples}
    arms = {row["arm"] for row in samples}
    assert len(arms) == 7 and len(samples) == 14
    for row in samples:
        assert abs(row["kl"]) < 1e-3 if row["arm"] == "reference" else row["kl"] > -0.5
    weights = {path: path.stat().st_mtime_ns for path in out.glob("seed-*/*/train-*/checkpoint-*/*")}
    assert len(weights) > 12
    assert asked(out, "reuse").count("## Reuse") == 1
    assert {path: path.stat().st_mtime_ns for path in out.glob("seed-*/*/train-*/checkpoint-*/*")} == weights


@pytest.mark.parametrize("key", ["model.name", "prompts.limit", "seed", "train.loss", "train.dpo.beta"])
def test_what_real_sets_itself_is_not_overridden_in_silence(key, tmp_path):
    with pytest.raises(UserError, match=f"--set {key}: "):
        real.settings_of(tmp_path, [tmp_path / "pairs.jsonl"], settings=["judge.kinds=rating", f"{key} = 1"])


PREFERENCES = 24


@pytest.mark.long
def test_a_real_model_from_end_to_end_and_nothing_of_it_twice(tmp_path):
    """The sandbox's model in place of a chat model, and the sandbox's pairs."""
    data = tmp_path / "choices.jsonl"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in world.pairs(5, PREFERENCES)))
    out = tmp_path / "evidence"
    model = ROOT / "pipelines" / "sandbox" / "model"
    words = ("real", "--model", str(model), "--data", str(data), "--pairs", str(PREFERENCES))
    words += ("--set", "judge.kinds=rating")  # it was not taught to compare two
    said = asked(out, *words)
    assert "### choices" in said and "on a CPU: 2 seeds" in said
    run = out / "real-choices"
    verdicts = queried(run, "select question, seeds, mean, low, high from verdicts")
    assert len(verdicts) == len(real.METHODS) + 1 and {row["seeds"] for row in verdicts} == {2}
    assert all("choices" in row["question"] and row["low"] <= row["mean"] <= row["high"] for row in verdicts)
    [dpo] = queried(run, "select avg(accuracy) - 0.5 as mean from held_out where method = 'DPO'")
    assert dpo["mean"] == pytest.approx(verdicts[0]["mean"])
    split = queried(run, "select pair_id, count(*) as n from held_out join pairs using (pair_id) group by 1")
    assert {row["n"] for row in split} == {2 * len(real.METHODS)}
    weights = {path: path.stat().st_mtime_ns for path in out.glob("real-choices/train-*/checkpoint-*/*")}
    assert len({path.parent for path in weights}) == 2 * len(real.METHODS)
    assert asked(out, *words).count("### choices") == 1
    assert {
        path: path.stat().st_mtime_ns for path in out.glob("real-choices/train-*/checkpoint-*/*")
    } == weights


def test_a_cache_that_was_asked_for_otherwise_is_refused(tmp_path):
    """Another number of problems, or another recipe, would make what is there stale."""
    asked_now = Setting(problems=60)
    folder = tmp_path / folder_of("independent")
    folder.mkdir()
    made = {"seconds": 1.0, caches._ASKED: caches._asked("independent", asked_now)}
    (folder / caches._MADE).write_text(json.dumps(made))
    caches._check_as_asked(tmp_path, "independent", asked_now)
    for other in (Setting(problems=61), Setting(problems=60, test_problems=7)):
        with pytest.raises(UserError, match="-o"):
            caches._check_as_asked(tmp_path, "independent", other)
