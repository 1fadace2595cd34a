"""Scores by a model that is asked: a mark for each response, or which of two is better.

- A mark is not sampled. It is the expectation over the probabilities of the marks as what the answer goes on
  with, so forward passes of the question give it, with its whole distribution.
- Two responses are compared in both orders, and the chance to win is the mean of the two. A judge that merely
  likes what stands first says 0.5 of everything, and `agreed` shows it.
- The file that asks may begin the answer, and the judge may think first (`think`).
- Where the marks have little of the probability, the score is of what they have, and `mass` says how much.
  Below `min_mass` the judge gave no answer: the score is null, and what it says instead is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine import judging, queries
from engine.endpoint.asker import EndpointAsker
from engine.endpoint.spec import TOP_LOGPROBS, endpoint_of
from engine.excerpts import some_words
from engine.ids import content_id
from engine.instructions import Question
from engine.judging import Response
from engine.models.spec import ModelSpec, spec_of
from engine.questions import Answer, Asker
from engine.rejects import Reject, rejects_table
from engine.stage import Context, Made, Planning, Stage
from schemas import sections
from schemas.digest import fingerprint
from schemas.manifest import Facts
from schemas.sections import Judge
from schemas.tables import TABLES

# A row of `scores`; what is left out is null.
Score = dict[str, Any]

_LITTLE_MASS = 0.5  # below it `low_mass` counts a score


class Asks(Protocol):
    """Who answers a judge's questions."""

    def ask(self, questions: Sequence[Question], words: Sequence[str]) -> list[Answer]:
        """The answer to each question. Raises UserError where nobody can be asked."""
        ...


@dataclass
class _Verdicts:
    """Rows of `scores`; and by its row a reject for each response that the judge could not be asked about."""

    scores: list[Score] = field(default_factory=list)
    rejects: dict[int, Reject] = field(default_factory=dict)

    def add(self, others: "_Verdicts") -> None:
        """Add the verdicts of another kind. A response has one reject: the last one."""
        self.scores += others.scores
        self.rejects |= others.rejects


def model_spec(config: Judge, reference: sections.Model) -> ModelSpec:
    """The section's model, or the recipe's own."""
    return spec_of(reference, config)


def facts(config: Judge, planning: Planning) -> Facts:
    """The model, the questions and the marks. Raises UserError where a question's file cannot be filled."""
    own: Facts = {
        "kinds": sorted(config.kinds),
        "min_mass": config.min_mass,
    }
    digests = judging.check_files(config)
    if "rating" in config.kinds:
        own["rating_prompt"] = digests["rating"]
        own["marks"] = [config.low, config.high]
    if "pairwise" in config.kinds:
        own["pairwise_prompt"] = digests["pairwise"]
    if config.think:
        own["think"] = config.think
    if config.rubric:
        own["rubric"] = fingerprint(judging.rubric(config))
    if config.template_arguments:
        own["template_arguments"] = config.template_arguments
    endpoint = endpoint_of(config)
    if endpoint is None:
        own["model"] = planning.model().facts()
    else:
        own["model"] = endpoint.facts() | {"top_logprobs": TOP_LOGPROBS}
    return own


def make(batch: pa.Table, config: Judge, context: Context) -> Made:
    """Rows of `scores`: a mark a response, and for each comparison one of both responses."""
    if not len(batch):
        return Made({})
    return judged(batch, config, _asker(config, context))


def judged(batch: pa.Table, config: Judge, asker: Asks) -> Made:
    """The same by whoever answers."""
    responses = judging.responses_of(batch)
    verdicts = _Verdicts()
    if "rating" in config.kinds:
        verdicts.add(_ratings(responses, config, asker))
    if "pairwise" in config.kinds:
        verdicts.add(_comparisons(responses, config, asker))
    scores = pa.Table.from_pylist(verdicts.scores, schema=TABLES["scores"])
    rejects = list(verdicts.rejects.values())
    texts = batch["text"].to_pylist()
    tables = {
        "scores": scores,
        "rejects": rejects_table("judge", rejects, batch, texts),
    }
    return Made(tables, _counts(scores, len(rejects)))


def _asker(config: Judge, context: Context) -> Asks:
    """Who is asked: the section's server, or a model here."""
    endpoint = endpoint_of(config)
    if endpoint is not None:
        return EndpointAsker(endpoint, config.min_mass, config.think, context.progress)
    model = context.open_model()
    text = model.text
    if config.template_arguments:
        text = text.with_arguments(config.template_arguments, "judge")
    return Asker(model, context.positions, config.min_mass, config.think, text)


def _counts(scores: pa.Table, rejects: int) -> dict[str, int]:
    """What a shard counts. Counts are whole numbers that add up, so the mean mass is two of them."""
    unscored = scores["score"].null_count
    disagreeing_rows = scores["agreed"].to_pylist().count(False)
    masses = scores["mass"].filter(pc.is_finite(scores["mass"]))
    scored_masses = scores["mass"].filter(pc.is_valid(scores["score"]))
    return {
        "scored": len(scores) - unscored,
        "unscored": unscored,
        "low_mass": pc.sum(pc.less(scored_masses, _LITTLE_MASS)).as_py() or 0,
        "masses": len(masses),
        "mass_in_thousandths": round(1000 * (pc.sum(masses).as_py() or 0)),
        "disagreed": disagreeing_rows // 2,  # a comparison has two rows
        "rejects": rejects,
    }


def _ratings(responses: list[Response], config: Judge, asker: Asks) -> _Verdicts:
    """A mark for each response."""
    questions = judging.rating_questions(responses, config)
    marks = range(config.low, config.high + 1)
    answers = asker.ask(questions, list(map(str, marks)))
    verdicts = _Verdicts()
    for row, answer in enumerate(answers):
        if answer.unfit:
            verdicts.rejects[row] = answer.unfit
        verdicts.scores.append(_rating(responses[row], answer, marks))
    return verdicts


def _rating(response: Response, answer: Answer, marks: range) -> Score:
    """The row of `scores` for a response: the expected mark, null where there is no answer."""
    expected_mark = None
    if answer.probabilities is not None:
        expected_mark = float(np.dot(answer.probabilities, marks))
    return {
        "prompt_id": response.prompt_id,
        "response_id": response.response_id,
        "scorer": "rating",
        "score": expected_mark,
        "distribution": answer.probabilities,
        "mass": answer.mass,
        "answer": answer.said,
    }


def _comparisons(responses: list[Response], config: Judge, asker: Asks) -> _Verdicts:
    """Two scores for each match, which is asked about as (a, b) and as (b, a)."""
    matches = judging.matches(responses)
    questions = judging.pairwise_questions(responses, matches, config)
    answers = asker.ask(questions, ["A", "B"])
    verdicts = _Verdicts()
    for number, (row, other_row) in enumerate(matches):
        a_first = answers[2 * number]
        b_first = answers[2 * number + 1]
        refusal = a_first.unfit or b_first.unfit
        if refusal:
            verdicts.rejects[row] = replace(refusal, row=row)
        a = responses[row]
        b = responses[other_row]
        verdicts.scores += _comparison(a, b, a_first, b_first)
    return verdicts


def _comparison(a: Response, b: Response, a_first: Answer, b_first: Answer) -> tuple[Score, Score]:
    """The two rows of `scores` for a match: each one's chance to win, null where an order has no answer.

    `a_first` answers the question that shows a as A and b as B, `b_first` the other one."""
    common: Score = {
        "prompt_id": a.prompt_id,
        "scorer": "pairwise",
        "comparison_id": content_id("pairwise", a.response_id, b.response_id),
    }
    if a_first.mass is not None and b_first.mass is not None:
        common["mass"] = min(a_first.mass, b_first.mass)
    if a_first.probabilities is None or b_first.probabilities is None:
        common["answer"] = a_first.said
        if a_first.said is None:
            common["answer"] = b_first.said
        return common | {"response_id": a.response_id}, common | {"response_id": b.response_id}
    # The chance that a wins: shown first it is A, shown second it is B.
    wins_first = a_first.probabilities[0]
    wins_second = b_first.probabilities[1]
    chance = (wins_first + wins_second) / 2
    common["agreed"] = (wins_first > 0.5) == (wins_second > 0.5)
    score_of_a = {
        "response_id": a.response_id,
        "score": chance,
        "distribution": [wins_first, wins_second],
        "answer": a_first.said,
    }
    score_of_b = {
        "response_id": b.response_id,
        "score": 1 - chance,
        "distribution": [1 - wins_second, 1 - wins_first],
        "answer": b_first.said,
    }
    return common | score_of_a, common | score_of_b


def explain(tables: Mapping[str, pa.Table], config: Judge) -> str:
    """Why there is no mark, with some of what the judge said in place of one."""
    scores = tables["scores"]
    mass = pc.mean(scores["mass"]).as_py() or 0.0
    unscored = scores.filter(pc.is_null(scores["score"]))
    return (
        f"the marks' probability is {mass:.2g} on average, below judge.min_mass = {config.min_mass:g}. "
        f"The judge said, for example, {some_words(unscored['answer'].to_pylist())}. Begin its answer for it "
        "({% set answer %}…{% endset %} in the file of judge.rating_prompt or judge.pairwise_prompt), ask "
        "another model (judge.model), or lower judge.min_mass"
    )


STAGE = Stage(
    name="judge",
    version=2,
    reads=("prompts", "responses"),
    writes=("scores", "rejects"),
    query=queries.used_responses("text", of_prompts=("reference", "chat")),
    fn=make,
    facts=facts,
    model=model_spec,
    endpoint=endpoint_of,
    explain=explain,
)
