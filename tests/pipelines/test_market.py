"""The market's checker knows the truth; its rewards are more than right and wrong; preferences follow."""

import math
import random

import numpy as np
import pyarrow as pa
import pytest

from engine import sql
from pipelines.sandbox import market, rewards
from schemas.extensions import included

GAINS = ("buys", "finds", "gets", "wins")


@pytest.mark.parametrize("seed", range(4))
def test_right_solutions_are_right_in_every_manner_and_slips_are_not(seed):
    draw = random.Random(seed)
    for _ in range(150):
        found = market.problem(draw)
        messages = [{"role": "user", "content": str(found)}]
        assert market.read(str(found)).steps() == found.steps()
        for manner in range(market.MANNERS):
            right = market.write(found, found.steps(), manner)
            wrong = market.write(found, market.careless(found, draw), manner)
            assert rewards.right(messages, right) == 1 and rewards.partial_credit(messages, right) == 1
            assert rewards.right(messages, wrong) == 0
            assert rewards.reward(messages, right) > rewards.reward(messages, wrong)


def test_the_answer_by_another_way():
    """Goods counted on the text, with nothing of the checker's."""
    for row in market.prompts(3, 300):
        *told, _ = row["prompt"].split(". ")
        goods = 0
        for sentence in told:
            words = sentence.split()
            numbers = [int(word) for word in words if word.isdigit()]
            amount = math.prod(numbers)
            goods += amount if words[1] in ("has", *GAINS) else -amount
        messages = [{"role": "user", "content": row["prompt"]}]
        assert rewards.right(messages, f"The answer is {goods}.") == 1
        assert rewards.right(messages, f"The answer is {goods + 1}.") == 0


def test_what_is_no_problem_has_no_reward():
    for text in ("Who are you?", "Ada has 3 coins. How many coins does Ada have now?", ""):
        messages = [{"role": "user", "content": text}]
        for reward in (rewards.reward, rewards.right, rewards.style, rewards.length, rewards.partial_credit):
            assert reward(messages, "The answer is 3.") is None


def test_parts_of_the_reward():
    found = market.problem(random.Random(1))
    messages = [{"role": "user", "content": str(found)}]
    steps = found.steps()
    numbered, first, terse = (market.write(found, steps, manner) for manner in (3, 0, 5))
    assert [rewards.style(messages, text) for text in (numbered, first, terse)] == [1, 0.5, 0]
    assert rewards.length(messages, terse) < rewards.length(messages, numbered)
    assert rewards.length(messages, "word " * 500) == 1
    half = market.write(found, steps[: len(steps) // 2], 5)
    assert rewards.partial_credit(messages, half) == (len(steps) // 2) / len(steps)
    worth = rewards.worth(messages, numbered)
    assert worth.reward == pytest.approx(0.5 + 0.3 + 0.2 - 0.1 * len(numbered.split()) / 60)


COUNT = 4000


def chosen(gap, **settings):
    """What bradley_terry.sql chooses of COUNT prompts whose two responses' scores lie `gap` apart."""
    ids = [f"p{number}" for number in range(COUNT)]
    responses = pa.table(
        {
            "prompt_id": ids * 2,
            "response_id": [f"{one}-{side}" for side in ("good", "bad") for one in ids],
            "text": ["good"] * COUNT + ["bad"] * COUNT,
            "source": ["generated"] * 2 * COUNT,
        }
    )
    scores = pa.table(
        {
            "response_id": responses["response_id"],
            "prompt_id": responses["prompt_id"],
            "scorer": ["check"] * 2 * COUNT,
            "score": [gap] * COUNT + [0.0] * COUNT,
        }
    )
    query = included("sql", "bradley_terry", ".sql").read_text()
    wanted = {"scorer": "check", "seed": 0} | settings
    return sql.over({"responses": responses, "scores": scores}, query, "test", wanted)


def share_of_good(rows):
    return np.mean([name.endswith("good") for name in rows["chosen_response_id"].to_pylist()])


@pytest.mark.parametrize("gap", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_preferences_are_bradley_and_terrys(gap, temperature, noise):
    rows = chosen(gap, label_temperature=temperature, label_noise=noise)
    assert len(rows) == COUNT and rows["skipped"].null_count == COUNT
    right = 1 / (1 + math.exp(-gap / temperature))
    expected = right * (1 - noise) + (1 - right) * noise
    assert share_of_good(rows) == pytest.approx(expected, abs=4 * math.sqrt(0.25 / COUNT))
    for one, other, more, less in zip(
        *(rows[name].to_pylist() for name in rows.column_names[1:5]), strict=True
    ):
        assert (more == gap) == one.endswith("good") or gap == 0
        assert one != other and {more, less} == {gap, 0.0}


def test_without_temperature_the_better_is_always_chosen_and_a_tie_is_none():
    assert share_of_good(chosen(0.1, label_temperature=0.0)) == 1
    assert share_of_good(chosen(0.1, label_temperature=0.0, label_noise=1.0)) == 0
    tied = chosen(0.0, label_temperature=0.0)
    assert set(tied["skipped"].to_pylist()) == {"tie"}


def test_a_seed_settles_the_draw_and_another_draws_anew():
    once, again, other = (chosen(0.1, label_temperature=0.2, seed=seed) for seed in (1, 1, 2))

    def by_prompt(rows):
        return dict(zip(rows["prompt_id"].to_pylist(), rows["chosen_response_id"].to_pylist(), strict=True))

    assert by_prompt(once) == by_prompt(again)
    same = np.mean([by_prompt(other)[key] == value for key, value in by_prompt(once).items()])
    assert 0.45 < same < 0.65


def test_prompts_that_cannot_be_compared_say_why():
    responses = pa.table(
        {
            "prompt_id": ["alike", "alike", "unrated", "unrated", "alone"],
            "response_id": list("abcde"),
            "text": ["x", "x", "y", "z", "w"],
            "source": ["generated"] * 5,
        }
    )
    scores = pa.table(
        {
            "response_id": ["a", "b", "e"],
            "prompt_id": ["alike", "alike", "alone"],
            "scorer": ["check"] * 3,
            "score": [1.0, 1.0, 0.5],
        }
    )
    query = included("sql", "bradley_terry", ".sql").read_text()
    rows = sql.over({"responses": responses, "scores": scores}, query, "test", {"scorer": "check", "seed": 0})
    found = dict(zip(rows["prompt_id"].to_pylist(), rows["skipped"].to_pylist(), strict=True))
    assert found == {"alike": "same_text", "unrated": "no_score", "alone": "no_score"}
