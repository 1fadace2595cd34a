"""The world's checker knows the truth, and the tiny model does its jobs.

The figures are well inside what the demo promises.
"""

import random
from pathlib import Path

import numpy as np
import pytest

from engine.instructions import Instruction
from engine.models.spec import ModelSpec, resolve
from engine.questions import Asker
from pipelines.sandbox import world
from schemas.sections import Model, Sampling

MODEL = Path(world.__file__).parent / "model"


@pytest.mark.parametrize("seed", range(5))
def test_right_solutions_are_right_in_every_manner_and_slips_are_not(seed):
    draw = random.Random(seed)
    for _ in range(200):
        found = world.problem(draw)
        messages = [{"role": "user", "content": str(found)}]
        assert world.read(str(found)).steps() == found.steps()
        for manner in range(world.MANNERS):
            right, wrong = (
                world.write(found, found.steps(), manner),
                world.write(found, world.careless(found, draw), manner),
            )
            assert world.reward(messages, right) == 1 and world.right_steps(found, right) == 1
            assert world.reward(messages, wrong) == 0 and world.right_steps(found, wrong) < 1
            assert world.reward(messages, right.rsplit("The answer", 1)[0]) == 0


def test_the_answer_by_another_way():
    """Arithmetic on the text, with nothing of the checker's."""
    for row in world.prompts(9, 300):
        words = row["prompt"].replace(".", " ").replace("?", " ").split()
        numbers = [int(word) for word in words if word.isdigit()]
        total = numbers[0] * numbers[1] if "each" in words else numbers[0]
        signs = [
            1 if any(gain in part for gain in ("buys", "finds", "gets", "wins")) else -1
            for part in row["prompt"].split(". ")[1:-1]
        ]
        for sign, number in zip(signs, numbers[2 if "each" in words else 1 :], strict=True):
            total += sign * number
        assert world.reward([{"role": "user", "content": row["prompt"]}], f"The answer is {total}.") == 1


def test_what_is_no_problem_has_no_truth():
    assert world.reward([{"role": "user", "content": "Who are you?"}], "The answer is 3.") is None


@pytest.fixture(scope="module")
def hf():
    from engine.models.hf import HF

    return HF(resolve(ModelSpec(Model(name=str(MODEL)), "hf")), "cpu")


def test_it_is_small_and_answers_right_between_40_and_75_percent_of_the_time(hf):
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 8e6
    asked = [[{"role": "user", "content": row["prompt"]}] for row in world.prompts(31, 150)]
    samples = hf.generate(
        hf.text.prompts(asked), [[2 * i, 2 * i + 1] for i in range(150)], Sampling(n=2, max_tokens=96)
    )
    right = [
        world.reward(messages, text)
        for messages, group in zip(asked, samples, strict=True)
        for text in hf.text.decode([sample.ids for sample in group])
    ]
    assert 0.40 <= np.mean(right) <= 0.75


def test_its_marks_go_with_the_truth(hf):
    draw, ask = random.Random(5), Instruction("judge_rating_bare")
    questions, truth = [], []
    for number in range(240):
        found = world.problem(draw)
        response = world.write(
            found, found.steps() if number % 2 else world.careless(found, draw), draw.randrange(world.MANNERS)
        )
        questions.append(ask.question(conversation=str(found), response=response))
        truth.append(number % 2)
    answers = Asker(hf, 512, 0.5).ask(questions, list("12345"))
    marks = [np.dot(answer.probabilities, range(1, 6)) for answer in answers]
    assert min(answer.mass for answer in answers) > 0.9
    assert np.corrcoef(marks, truth)[0, 1] > 0.3


def test_it_mends_at_least_half_of_wrong_drafts_and_little_else(hf):
    """An independent right solution is the reference.

    Half of the rewrites are right; those in use are less than half as far from the draft as the reference.
    """
    from engine.stages.rewrite import rewritten_response

    draw, ask, rows, questions = random.Random(6), Instruction("rewrite_maths"), [], []
    for _ in range(120):
        found = world.problem(draw)
        texts = {
            "rejected": world.write(found, world.careless(found, draw), draw.randrange(world.MANNERS)),
            "chosen": world.write(found, found.steps(), draw.randrange(world.MANNERS)),
        }
        questions.append(ask(conversation=str(found), **texts))
        rows.append(
            texts
            | {
                "prompt_id": "p",
                "chosen_response_id": "c",
                "rejected_response_id": "r",
                "messages": [{"role": "user", "content": str(found)}],
            }
        )
    samples = hf.generate(hf.text.prompts(questions), [[0]] * 120, Sampling(temperature=0.0, max_tokens=96))
    texts = hf.text.decode([group[0].ids for group in samples])
    assert (
        np.mean([world.reward(row["messages"], text) for row, text in zip(rows, texts, strict=True)]) >= 0.5
    )
    used = [
        one
        for row, text in zip(rows, texts, strict=True)
        if not (one := rewritten_response(row, text, "stop", 1.0))["fallback"]
    ]
    assert np.mean([one["edit_to_parent"] for one in used]) < 0.5 * np.mean(
        [one["edit_between"] for one in used]
    )


def test_the_quality_prompt_raises_what_is_right(hf):
    from engine.instructions import quality_text, under

    draw, gains = random.Random(8), {True: [], False: []}
    for number in range(60):
        found = world.problem(draw)
        right = bool(number % 2)
        steps = found.steps() if right else world.careless(found, draw)
        messages = [{"role": "user", "content": str(found)}]
        written = world.write(found, steps, draw.randrange(world.MANNERS))
        ((response,),) = hf.text.responses([messages], [[written]])
        plain, quality = hf.logprobs(
            hf.text.prompts([messages, under(messages, quality_text("quality"))]), [[response], [response]]
        )
        gains[right].append(float(quality[0].sum() - plain[0].sum()))
    assert np.mean(gains[True]) > np.mean(gains[False]) + 0.3
