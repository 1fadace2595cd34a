"""A mark is the expectation over its tokens' probabilities.

A preference known in advance comes out of the pairwise judge, whatever it likes to see first.
"""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from engine.instructions import Instruction
from engine.models import Sample
from engine.stage import Context
from engine.stages import judge
from engine.stages.check import load as load_check
from schemas.errors import UserError
from schemas.sections import Check, Judge, Model, Sampling
from schemas.tables import MESSAGES
from tests.conftest import ROOT
from tests.engine.planned import context, planning

REFERENCES = {"p1": "the right one", "p2": None}
TEXTS = {"p1": ["short", "a longer one", "the longest one of all", "short"], "p2": ["x", "yy"]}


def batch() -> pa.Table:
    rows = [(prompt, f"{prompt}{n}", text) for prompt, texts in TEXTS.items() for n, text in enumerate(texts)]
    return pa.table(
        {
            "prompt_id": [row[0] for row in rows],
            "response_id": [row[1] for row in rows],
            "text": [row[2] for row in rows],
            "messages": pa.array(
                [[{"role": "user", "content": f"question {row[0]}"}] for row in rows], MESSAGES
            ),
            "file": ["f"] * len(rows),
            "line": list(range(len(rows))),
            "reference": pa.array([REFERENCES[row[0]] for row in rows], pa.string()),
        }
    )


def made(config: Judge, model, path) -> list[dict]:
    result = judge.make(batch(), config, context(Model(name=str(path)), model=model))
    return result.tables["scores"].to_pylist()


class Known:
    """A judge whose mind is known.

    It prefers the longer response by `favour` (log-odds) and what stands first by `first`; or, with
    `garbage`, says nothing that was asked for."""

    def __init__(self, text, favour: float, first: float, garbage: bool = False):
        self.text, self.favour, self.first, self.garbage = _Spy(text), favour, first, garbage

    def logprobs(self, prompts, responses):
        found = []
        for prompt, tokens in zip(prompts, responses, strict=True):
            asked = self.text.said[tuple(prompt)]
            if self.garbage:
                found.append([np.array([-9.0], np.float32) for _ in tokens])
                continue
            a, b = asked.split("Response A:\n")[1].split("\n\nBetter response:")[0].split("\n\nResponse B:\n")
            p = 1 / (1 + np.exp(-(self.favour * np.sign(len(a) - len(b)) + self.first)))
            by_letter = {"A": 0.9 * p, "B": 0.9 * (1 - p)}
            decode = self.text.tokenizer.decode
            if decode(prompt[-1:]) == " ":  # " B" is two tokens: the first one has all of its share
                found.append([np.zeros(1, np.float32) for _ in tokens])
                continue
            letters = [decode(token).strip() or "B" for token in tokens]
            found.append(
                [
                    np.array([np.log(by_letter[letter] / letters.count(letter))], np.float32)
                    for letter in letters
                ]
            )
        return found

    def generate(self, prompts, seeds, sampling):
        ids = self.text.tokenizer("I would rather not say", add_special_tokens=False).input_ids
        return [[Sample(ids, np.zeros(len(ids), np.float32), "length")] for _ in prompts]


class _Spy:
    """A Text that remembers what its prompts said, also less the last tokens, which a word may say anew."""

    def __init__(self, text):
        self._text, self.said = text, {}

    def __getattr__(self, name):
        return getattr(self._text, name)

    def openings(self, questions, begun):
        ids = self._text.openings(questions, begun)
        for row, question in zip(ids, questions, strict=True):
            for dropped in range(3):
                self.said[tuple(row[: len(row) - dropped])] = question[0]["content"]
        return ids


@pytest.fixture(scope="module")
def hf(model_path):
    from tests.engine.test_hf import open_hf

    return open_hf(model_path)


@pytest.mark.parametrize("favour", [1.5, -1.5])
@pytest.mark.parametrize("first", [0.0, 1.0, -4.0])
@pytest.mark.parametrize("file", ["judge_pairwise", "judge_pairwise_bare"])
def test_a_known_preference_comes_out_whatever_is_shown_first(hf, model_path, favour, first, file):
    config = Judge(kinds=("pairwise",), pairwise_prompt=file)
    found = made(config, Known(hf.text, favour, first), model_path)
    lengths = {f"{prompt}{n}": len(text) for prompt, texts in TEXTS.items() for n, text in enumerate(texts)}
    assert len(found) == 2 * (5 + 1)  # p1 has two equal texts, which are not held against each other
    for a, b in zip(found[::2], found[1::2], strict=True):
        assert a["comparison_id"] == b["comparison_id"] and a["score"] + b["score"] == pytest.approx(1)
        longer = lengths[a["response_id"]] > lengths[b["response_id"]]
        assert (a["score"] > 0.5) == (longer == (favour > 0)), "a label is inverted"
        assert a["agreed"] == b["agreed"] == (abs(favour) > abs(first))
        # Both orders are kept: shown first, then shown second.
        sign = 1 if longer else -1
        assert a["distribution"] == pytest.approx(
            [1 / (1 + np.exp(-(favour * sign + first))), 1 / (1 + np.exp(-(favour * sign - first)))], abs=1e-5
        )
        assert b["distribution"] == pytest.approx([1 - a["distribution"][1], 1 - a["distribution"][0]]) and a[
            "mass"
        ] == pytest.approx(0.9, abs=1e-5)


def test_a_judge_that_only_likes_the_first_place_says_nothing(hf, model_path):
    found = made(Judge(kinds=("pairwise",)), Known(hf.text, 0.0, 3.0), model_path)
    assert all(row["score"] == pytest.approx(0.5) and not row["agreed"] for row in found)


@pytest.mark.parametrize("kinds", [("rating",), ("pairwise",), ("rating", "pairwise")])
def test_garbage_is_a_null_score_with_its_words_and_no_row_is_lost(hf, model_path, kinds):
    config = Judge(kinds=kinds, min_mass=0.5)
    found = made(config, Known(hf.text, 1.0, 0.0, garbage=True), model_path)
    assert len(found) == 6 * ("rating" in kinds) + 12 * ("pairwise" in kinds)
    assert all(row["score"] is None and "rather not say" in row["answer"] for row in found)


def next_token(hf, ids: list[int]) -> np.ndarray:
    """All next-token probabilities by the model's own forward."""
    with torch.no_grad():
        hf._model.config._attn_implementation = "sdpa"
        p = hf._model(torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(-1)
        hf._model.config._attn_implementation = "prefmill_packed"
    return p.numpy()


def asked_and_scored(found: list[dict]):
    texts = [(prompt, text) for prompt, texts in TEXTS.items() for text in texts]
    return zip(found, texts, strict=True)


def test_a_mark_is_the_expectation_over_the_marks_tokens(hf, model_path):
    """Against all logits of the model's own forward.

    The marks' probabilities are summed over the tokens that say them."""
    config = Judge(min_mass=0.0, low=2, high=4, rating_prompt="judge_rating_bare")
    ask = Instruction("judge_rating_bare")
    for row, (prompt, text) in asked_and_scored(made(config, hf, model_path)):
        (ids,) = hf.text.prompts([ask(conversation=f"question {prompt}", response=text)])
        p = next_token(hf, ids)
        tokens = [{ids[0] for ids in hf.text.spellings(str(mark)) if len(ids) == 1} for mark in (2, 3, 4)]
        marks = np.array([p[list(alone)].sum() for alone in tokens])
        assert row["mass"] == pytest.approx(marks.sum(), abs=1e-6)
        assert row["distribution"] == pytest.approx((marks / marks.sum()).tolist(), abs=1e-5)
        assert (
            row["score"] == pytest.approx((marks * [2, 3, 4]).sum() / marks.sum(), abs=1e-4)
            and row["answer"] is None
        )


def test_a_mark_is_read_after_the_begun_answer_in_the_tokens_that_go_on_from_it(hf, model_path):
    """`Rating: 3` ends in the one token ` 3` here: it is read after `Rating:`, not after `Rating: `."""
    config = Judge(min_mass=0.0, low=2, high=4)
    ask = Instruction("judge_rating")
    for row, (prompt, text) in asked_and_scored(made(config, hf, model_path)):
        question = ask.question(
            conversation=f"question {prompt}",
            response=text,
            reference=REFERENCES[prompt],
            rubric="",
            low=2,
            high=4,
            think=False,
        )
        assert question.begun == "Rating: "
        (whole,) = hf.text.openings([question.messages], ["Rating: 3"])
        assert hf.text.tokenizer.decode(whole[-1:]) == " 3"
        p = next_token(hf, whole[:-1])
        spaced = [hf.text.spellings(str(mark))[1][0] for mark in (2, 3, 4)]
        bare = [hf.text.spellings(str(mark))[0][0] for mark in (2, 3, 4)]
        marks = p[spaced] + p[bare]
        assert row["mass"] == pytest.approx(marks.sum(), abs=1e-6)
        assert row["score"] == pytest.approx((marks * [2, 3, 4]).sum() / marks.sum(), abs=1e-4)


@pytest.mark.parametrize("high", [10, 100])
def test_scales_beyond_digits(hf, model_path, high):
    found = made(Judge(min_mass=0.0, low=1, high=high), hf, model_path)
    for row in found:
        assert len(row["distribution"]) == high and sum(row["distribution"]) == pytest.approx(1)
        assert row["score"] == pytest.approx(np.dot(row["distribution"], range(1, high + 1)))
        assert 0 < row["mass"] < 1 and min(row["distribution"]) >= 0


def test_the_judge_thinks_first_and_its_thoughts_are_kept(hf, model_path):
    """The mark is read after the greedy thought and the begun answer."""
    config = Judge(min_mass=0.0, think=7)
    ask = Instruction("judge_rating")
    found = made(config, hf, model_path)
    assert found != made(Judge(min_mass=0.0), hf, model_path)
    for row, (prompt, text) in asked_and_scored(found):
        question = ask.question(
            conversation=f"question {prompt}",
            response=text,
            reference=REFERENCES[prompt],
            rubric="",
            low=1,
            high=5,
            think=True,
        )
        (opening,) = hf.text.prompts([question.messages])
        ((sample,),) = hf.generate([opening], [[0]], Sampling(temperature=0.0, max_tokens=7))
        thought = sample.ids[:-1] if sample.finish_reason == "stop" else sample.ids
        assert row["answer"] == hf.text.decode([thought])[0] and len(thought) <= 7
        below = hf.text.tokenizer("\n\nRating:", add_special_tokens=False).input_ids
        p = next_token(hf, [*opening, *thought, *below])
        marks = np.zeros(5)
        for place in range(5):
            bare, spaced, *_ = hf.text.spellings(str(place + 1))
            marks[place] = p[bare[0]] + p[spaced[0]]
        assert row["mass"] == pytest.approx(marks.sum(), abs=1e-6)
        assert row["score"] == pytest.approx((marks * range(1, 6)).sum() / marks.sum(), abs=1e-4)


OPENS_THOUGHT = (
    "{% for message in messages %}{{ message.role + ': ' + message.content + '\n' }}{% endfor %}"
    "{{ 'assistant: <think>\n' if add_generation_prompt else '' }}"
)


@pytest.mark.parametrize("think", [0, 5])
def test_a_thought_that_the_template_opens_is_closed_before_the_mark(
    model_path, tmp_path, think, monkeypatch
):
    from engine.models.hf import HF
    from engine.models.spec import ModelSpec, resolve

    template = tmp_path / "thinks.jinja"
    template.write_text(OPENS_THOUGHT)
    model = HF(resolve(ModelSpec(Model(name=str(model_path), chat_template=str(template)), "hf")), "cpu")
    asked: list[str] = []
    logprobs = model.logprobs

    def spy(prompts, responses):
        asked.extend(model.text.tokenizer.decode(prompt) for prompt in prompts)
        return logprobs(prompts, responses)

    monkeypatch.setattr(model, "logprobs", spy)
    made(Judge(min_mass=0.0, think=think), model, model_path)
    assert len(asked) == 6
    for prompt in asked:
        turn = prompt.rpartition("assistant: <think>\n")[2]
        assert turn.endswith("</think>\n\nRating:") and turn.count("</think>") == 1


def test_a_reference_and_a_rubric_are_told_and_are_facts_where_they_are_used(hf, model_path, tmp_path):
    rubric, own = tmp_path / "rules.txt", tmp_path / "own.txt"
    rubric.write_text("no flattery\n")
    own.write_text("Rate {{ response }} to {{ conversation }}")
    said: list[str] = []

    class Listening:
        text = hf.text
        generate = hf.generate

        def logprobs(self, prompts, responses):
            said.extend(hf.text.tokenizer.decode(prompt) for prompt in prompts)
            return hf.logprobs(prompts, responses)

    for kind in ("rating", "pairwise"):
        config = Judge(kinds=(kind,), min_mass=0.0, rubric=str(rubric))
        said.clear()
        made(config, Listening(), model_path)
        assert all("no flattery" in text for text in said)
        with_reference = [text for text in said if "the right one" in text]
        assert with_reference == [text for text in said if "question p1" in text] != said
    given = planning({"judge": Judge()}, "judge", reference=Model(name=str(model_path)))
    plain = judge.facts(Judge(), given)
    ruled = judge.facts(Judge(rubric=str(rubric)), given)
    assert ruled.keys() - plain.keys() == {"rubric"} and not {"think", "rubric"} & plain.keys()
    with pytest.raises(UserError, match=r"own.txt does not use it: write \{\{ rubric \}\} there"):
        judge.facts(Judge(rating_prompt=str(own), rubric=str(rubric)), given)
    rubric.write_text(" \n")
    with pytest.raises(UserError, match="is empty"):
        judge.facts(Judge(rubric=str(rubric)), given)


def test_little_mass_is_counted_and_still_scored(hf, model_path):
    result = judge.make(batch(), Judge(min_mass=0.0), context(Model(name=str(model_path)), model=hf))
    rows = result.tables["scores"].to_pylist()
    assert result.counts["low_mass"] == result.counts["scored"] == result.counts["masses"] == 6
    mean = result.counts["mass_in_thousandths"] / 6000
    assert mean == pytest.approx(np.mean([row["mass"] for row in rows]), abs=1e-3)


def test_a_model_that_answers_with_the_mark_alone_is_read_at_once_where_the_begun_answer_misleads_it():
    """The sandbox's model has learnt so. What is clear without the begun answer is the bare question's."""
    from tests.engine.test_hf import open_hf

    path = ROOT / "pipelines" / "sandbox" / "model"
    model = open_hf(path)
    begun = made(Judge(low=1, high=10, min_mass=0.0), model, path)
    rows = made(Judge(low=1, high=10), model, path)
    misled = [row["mass"] < 0.01 for row in begun]
    assert 0 < sum(misled) < len(rows), "both kinds are among them"
    for row, first, is_misled in zip(rows, begun, misled, strict=True):
        assert row["score"] is not None and row["answer"] is None
        assert (row["mass"] > 0.9) if is_misled else (row == first)


def test_below_min_mass_the_score_is_null(hf, model_path):
    found = made(Judge(min_mass=0.99), hf, model_path)
    assert all(row["score"] is None and row["answer"] is not None and row["mass"] < 0.99 for row in found)


def test_what_is_too_long_to_ask_about_is_a_null_score_and_a_reject(hf, model_path):
    long = batch().to_pylist()
    long[0]["text"] = "word " * 600
    result = judge.make(
        pa.Table.from_pylist(long, schema=batch().schema),
        Judge(min_mass=0.0),
        context(Model(name=str(model_path)), model=hf),
    )
    scores, rejects = result.tables["scores"].to_pylist(), result.tables["rejects"].to_pylist()
    assert len(scores) == 6 and scores[0]["score"] is None and all(row["score"] for row in scores[1:])
    assert [(row["reason"], row["response_id"], row["line"]) for row in rejects] == [("too_long", "p10", 0)]


def test_a_scale_that_is_none_is_refused():
    with pytest.raises(UserError, match="high = 101: expected a number of at least 0 and at most 100"):
        Judge(low=1, high=101)
    with pytest.raises(UserError, match="low = 5, high = 5: expected the first below the second"):
        Judge(low=5, high=5)


def test_check_scores_by_a_function_and_survives_it(tmp_path):
    from engine.stages import check

    path = tmp_path / "mine.py"
    path.write_text(
        "def score(messages, response):\n"
        "    assert response != 'x', 'no x'\n"
        "    return None if response == 'yy' else len(response)\n"
    )
    config = Check(f"{path}:score")
    result = check.make(batch(), config, Context(seed=0))
    assert [row["score"] for row in result.tables["scores"].to_pylist()] == [5, 12, 22, 5, None, None]
    assert [
        (row["reason"], row["detail"], row["response_id"]) for row in result.tables["rejects"].to_pylist()
    ] == [("check_failed", "AssertionError: no x", "p20")]
    given = planning({"check": config}, "check")
    before = check.facts(config, given)
    path.write_text(path.read_text() + "# other\n")
    assert check.facts(config, given) != before
    path.write_text(
        "class Length:\n"
        "    def __call__(self, messages, response):\n"
        "        return len(response)\n"
        "score = Length()\n"
    )
    load_check.cache_clear()
    assert check.facts(config, given)["source"] != before["source"]
    assert check.make(batch(), config, Context(seed=0)).counts["checked"] == 6
    with pytest.raises(UserError, match="has no source file"):
        check.facts(Check("builtins:len"), given)
    for name, said in {
        "nowhere:f": "does not import: ModuleNotFoundError",
        f"{path}:scores": "has no function scores",
        "score": "expected package.module:name",
    }.items():
        with pytest.raises(UserError, match=said):
            load_check(name)
    assert json.dumps(before)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("rating", "Rate {{ conversation }}:", "does not show the judge response"),
        ("rating", "Rate {response} of {conversation}", "does not show the judge response"),
        ("rating", " ", "does not show the judge response"),
        ("pairwise", "Is {{ a }} good?", "does not show the judge b"),
    ],
)
def test_a_file_that_does_not_show_what_is_judged_is_refused(tmp_path, model_path, kind, text, message):
    (tmp_path / "own.txt").write_text(text)
    config = Judge(kinds=(kind,), **{f"{kind}_prompt": str(tmp_path / "own.txt")})
    with pytest.raises(UserError, match=message):
        judge.facts(config, planning({"judge": config}, "judge", reference=Model(name=str(model_path))))


def test_the_scale_asked_is_the_scale_read(tmp_path, model_path):
    """A file with a scale of its own is refused for another one; the shipped file takes any."""
    reference = Model(name=str(model_path))
    own = Judge(rating_prompt="judge_rating_bare", high=10)
    with pytest.raises(UserError, match="the scale asked is the scale read"):
        judge.facts(own, planning({"judge": own}, "judge", reference=reference))
    for config in (Judge(rating_prompt="judge_rating_bare"), Judge(high=10), Judge(low=0, high=100)):
        judge.facts(config, planning({"judge": config}, "judge", reference=reference))
