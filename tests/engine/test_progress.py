"""How far a run says that it is: true totals, speeds without the model's start, times that fit."""

import json

import pytest

from engine.commands.precompute import precompute
from engine.progress import Meter, StageProgress, Work
from engine.views import views
from schemas.amounts import duration
from schemas.recipe import load
from schemas.store import open_store
from tests.conftest import settings


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def a_shard(meter, clock, stage, responses, tokens_each, seconds_each, at_once=1):
    """A stage does a shard: it wants responses and gets them some at a time."""
    meter.add(Work(stage, shards=1))
    meter.add(Work(stage, wanted=responses))
    for _ in range(0, responses, at_once):
        clock.now += seconds_each * at_once
        meter.add(Work(stage, responses=at_once, tokens=tokens_each * at_once))


def test_totals_are_estimated_until_every_shard_has_begun(clock):
    meter = Meter({"generate": 3}, clock)
    a_shard(meter, clock, "generate", 40, 10, 0.5)
    assert meter.text() == ("generate 40 of ~120 responses, 20 tokens/s, 40 s left, 400 of ~1,200 tokens")
    meter.add(Work("generate", shards=1, wanted=20))
    assert "40 of ~90 responses" in meter.text()
    meter.add(Work("generate", shards=1, wanted=30))
    assert "40 of 90 responses" in meter.text()


def test_speed_and_time_left_do_not_count_the_models_start(clock):
    meter = Meter({"generate": 2}, clock)
    meter.add(Work("generate", shards=1, wanted=100))
    clock.now += 600  # the model is loaded
    meter.add(Work("generate", responses=1, tokens=7))
    assert meter.seconds_left() == pytest.approx(600 * 199, rel=0.01), "nothing better is known yet"
    for _ in range(49):
        clock.now += 2
        meter.add(Work("generate", responses=1, tokens=7))
    # Half a response a second, 150 of 200 to go.
    assert "50 of ~200 responses" in meter.text() and " 3.5 tokens/s" in meter.text()
    assert meter.seconds_left() == pytest.approx(150 * 2, rel=0.03)


def test_the_time_left_of_stages_that_take_turns_is_that_of_both(clock):
    meter = Meter({"generate": 4, "judge": 4, "pairs": 4}, clock)
    for done in range(3):
        a_shard(meter, clock, "generate", 50, 20, 1.0)
        meter.shard_done("generate")
        clock.now += 30  # work without a model is not the stages' time
        a_shard(meter, clock, "judge", 50, 20, 0.2)
        meter.shard_done("judge")
        meter.shard_done("pairs")
        left = meter.seconds_left()
        assert left == pytest.approx((3 - done) * 60, rel=0.05)
        assert meter.fraction() == pytest.approx((done + 1) / 4)


def test_two_workers_side_by_side_take_half_the_time(clock):
    meter = Meter({"generate": 4}, clock)
    for _ in range(2):
        meter.add(Work("generate", shards=1, wanted=50))
    for _ in range(50):
        clock.now += 1
        meter.add(Work("generate", responses=2, tokens=8))
    assert meter.seconds_left() == pytest.approx(50, rel=0.05)


def test_the_share_done_grows_with_every_response(clock):
    meter = Meter({"prompts": 1, "generate": 1}, clock)
    meter.shard_done("prompts")
    shares = [meter.fraction()]
    meter.add(Work("generate", shards=1, wanted=10))
    for _ in range(10):
        clock.now += 1
        meter.add(Work("generate", responses=1, tokens=3))
        shares.append(meter.fraction())
    assert shares == sorted(shares) and shares[0] == 0.5 and shares[-1] == 1.0


def test_a_meter_that_was_told_nothing_says_nothing_wrong(clock):
    meter = Meter({"prompts": 2}, clock)
    assert (meter.text(), meter.seconds_left(), meter.summary()) == ("", None, [])
    meter.add(Work("prompts", shards=1))
    assert meter.text() == "" and meter.fraction() == 0
    StageProgress().done(3, 5)  # nobody listens


def test_an_instant_answer_divides_by_no_zero(clock):
    meter = Meter({"generate": 1}, clock)
    meter.add(Work("generate", shards=1, wanted=2))
    meter.add(Work("generate", responses=2, tokens=5))
    assert meter.text() == "generate 2 of 2 responses, 0 tokens/s, 5 tokens"
    assert meter.summary() == ["generate: 2 responses, 5 tokens, 0 tokens/s in 1 s"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (59, "59 s"), (600, "10 min"), (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)
def test_durations_are_for_people(seconds, said):
    assert duration(seconds) == said


RECIPE = """
[model]
[prompts]
shards = 2
[generate]
n = 2
max_tokens = 6
[judge]
min_mass = 0.0
[logprobs]
[pairs]
choose = "best_vs_worst"
unfinished = "keep"
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_run_says_is_what_its_tables_hold(tmp_path, model_path, capsys, workers):
    """The totals of generate, judge and logprobs are the rows and tokens of the tables, however many work."""
    rows = [json.dumps({"prompt": f"How many are {number} and 2?"}) for number in range(9)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    words = settings(prompts__source=tmp_path / "prompts.jsonl", model__name=model_path)
    precompute(tmp_path / "run", load(tmp_path / "recipe.toml", words[1::2]), workers)
    said = capsys.readouterr().err.splitlines()
    lines = dict(line.split(": ", 1) for line in said if " tokens/s in " in line)
    tables = views(open_store(tmp_path / "run"))
    sampled = tables["responses"].to_table(columns=["response_ids"])["response_ids"].to_pylist()
    tokens = sum(map(len, sampled))
    assert lines["generate"].startswith(f"{len(sampled):,} responses, {tokens:,} tokens, ")
    assert lines["judge"].startswith(f"{tables['scores'].count_rows():,} responses, ")
    assert lines["logprobs"].startswith(f"{tables['logprobs'].count_rows():,} responses, ")
