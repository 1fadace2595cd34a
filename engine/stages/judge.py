"""Scores by a model that is asked: a mark for each response, or which of two is better.

A mark is not sampled: it is the expectation over the probabilities of the mark's tokens as the first of the answer (methods §3), so that one
forward pass of the question gives it, with its whole distribution. Two responses are compared in both orders and the chance to win is the
mean of the two: a judge that merely likes what stands first says 0.5 of everything, and `agreed` shows it. Where the answer's tokens have
less than `min_mass` of the probability the judge gave no answer: the score is null, and what it says instead is kept.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from engine.ids import content_id
from engine.instructions import Instruction, conversation
from engine.models import Uses
from engine.models import uses as model_of
from engine.stage import Made, Stage
from engine.stages.check import _QUERY
from engine.stages.generate import refused, unfit
from schemas.recipe import Recipe
from schemas.sections import Judge, Sampling
from schemas.tables import table

_SPOKEN = Sampling(temperature=0.0, max_tokens=24)  # what is kept of an answer that is none


def uses(recipe: Recipe) -> Uses:
    return model_of(recipe, recipe.section("judge").model)


def facts(recipe: Recipe) -> dict:
    config: Judge = recipe.section("judge")
    own = {}
    if "rating" in config.kinds:
        own |= {
            "rating_prompt": Instruction(config.rating_prompt, "conversation", "response").digest,
            "marks": [config.low, config.high],
        }
    if "pairwise" in config.kinds:
        own |= {"pairwise_prompt": Instruction(config.pairwise_prompt, "conversation", "a", "b").digest}
    return {"model": uses(recipe).facts(), "kinds": sorted(config.kinds), "min_mass": config.min_mass} | own


def make(batch: pa.Table, recipe: Recipe, model) -> Made:
    if not len(batch):
        return Made({})
    config: Judge = recipe.section("judge")
    asker = _Asker(model(), uses(recipe).positions, config.min_mass)
    rows = batch.select(["prompt_id", "response_id", "text"]).to_pylist()
    for row, messages in zip(rows, batch["messages"].to_pylist(), strict=True):
        row["conversation"] = conversation(messages)
    scores, reasons = [], {}
    if "rating" in config.kinds:
        scores += _ratings(rows, config, asker, reasons)
    if "pairwise" in config.kinds:
        scores += _comparisons(rows, config, asker, reasons)
    names = (
        "prompt_id",
        "response_id",
        "scorer",
        "comparison_id",
        "score",
        "distribution",
        "mass",
        "agreed",
        "answer",
    )
    columns = {name: [score.get(name) for score in scores] for name in names}
    unscored = sum(score["score"] is None for score in scores)
    counts = {
        "scored": len(scores) - unscored,
        "unscored": unscored,
        "disagreed": sum(score.get("agreed") is False for score in scores) // 2,
        "rejects": len(reasons),
    }
    return Made(
        {
            "scores": table("scores", columns),
            "rejects": refused("judge", reasons, batch, batch["text"].to_pylist()),
        },
        counts,
    )


class _Asker:
    """Questions to a model, answered by the probabilities of words that may come first."""

    def __init__(self, model, positions: int, min_mass: float):
        self._model, self._positions, self._min_mass = model, positions, min_mass

    def __call__(self, questions: Sequence[list[dict[str, str]]], words: Sequence[str]) -> list[dict]:
        """For each question `probabilities` of the words among themselves and their `mass`; or `answer`, what is said in place of one; or `unfit`, why
        it cannot be asked."""
        prompts = self._model.text.prompts(questions)
        found: list[dict] = [{"unfit": unfit(prompt, self._positions)} for prompt in prompts]
        asked = [number for number, answer in enumerate(found) if answer["unfit"] is None]
        tokens = [self._model.text.single_ids(word) for word in words]
        each = [[token] for ids in tokens for token in ids]
        cuts = np.cumsum([len(ids) for ids in tokens])[:-1]
        for number, logps in zip(
            asked,
            self._model.logprobs([prompts[number] for number in asked], [each] * len(asked)),
            strict=True,
        ):
            p = np.array(
                [part.sum() for part in np.split(np.exp(np.concatenate(logps).astype(np.float64)), cuts)]
            )
            found[number] |= {
                "mass": float(p.sum()),
                "probabilities": (p / p.sum()).tolist() if p.sum() > 0 else None,
            }
        unclear = [number for number in asked if not found[number]["mass"] >= self._min_mass]
        said = (
            self._model.generate([prompts[number] for number in unclear], [[0]] * len(unclear), _SPOKEN)
            if unclear
            else []
        )
        for number, text in zip(
            unclear, self._model.text.decode([sample.ids for (sample,) in said]), strict=True
        ):
            found[number] |= {"answer": text, "probabilities": None}
        return found


def _ratings(rows: list[dict], config: Judge, asker: _Asker, reasons: dict) -> list[dict]:
    ask, marks = Instruction(config.rating_prompt), range(config.low, config.high + 1)
    answers = asker(
        [ask(conversation=row["conversation"], response=row["text"]) for row in rows],
        [str(mark) for mark in marks],
    )
    scores = []
    for number, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        if answer["unfit"]:
            reasons[number] = answer["unfit"]
        p = answer.get("probabilities")
        scores.append(
            {
                "prompt_id": row["prompt_id"],
                "response_id": row["response_id"],
                "scorer": "rating",
                "distribution": p,
                "mass": answer.get("mass"),
                "answer": answer.get("answer"),
                "score": float(np.dot(p, marks)) if p else None,
            }
        )
    return scores


def _comparisons(rows: list[dict], config: Judge, asker: _Asker, reasons: dict) -> list[dict]:
    """Every two responses to a prompt that say something different, asked about as (a, b) and as (b, a)."""
    ask = Instruction(config.pairwise_prompt)
    groups = [
        list(group)
        for _, group in itertools.groupby(range(len(rows)), key=lambda number: rows[number]["prompt_id"])
    ]
    matches = [
        (a, b)
        for group in groups
        for a, b in itertools.combinations(group, 2)
        if rows[a]["text"] != rows[b]["text"]
    ]
    orders = [order for a, b in matches for order in ((a, b), (b, a))]
    answers = asker(
        [ask(conversation=rows[a]["conversation"], a=rows[a]["text"], b=rows[b]["text"]) for a, b in orders],
        ["A", "B"],
    )
    scores = []
    for (a, b), forth, back in zip(matches, answers[::2], answers[1::2], strict=True):
        if unfit_ := forth["unfit"] or back["unfit"]:
            reasons[a] = unfit_
        ids = [rows[a]["response_id"], rows[b]["response_id"]]
        common = {
            "prompt_id": rows[a]["prompt_id"],
            "scorer": "pairwise",
            "comparison_id": content_id("pairwise", *ids),
        }
        p, q = forth.get("probabilities"), back.get("probabilities")
        if p is None or q is None:
            said = next(
                (answer["answer"] for answer in (forth, back) if answer.get("answer") is not None), None
            )
            scores += [common | {"response_id": identity, "score": None, "answer": said} for identity in ids]
            continue
        # Forth, a is shown first, as A; back, it is shown second, as B.
        wins = (p[0], q[1])
        common |= {"mass": min(forth["mass"], back["mass"]), "agreed": (wins[0] > 0.5) == (wins[1] > 0.5)}
        scores.append(common | {"response_id": ids[0], "score": sum(wins) / 2, "distribution": list(wins)})
        scores.append(
            common
            | {"response_id": ids[1], "score": 1 - sum(wins) / 2, "distribution": [1 - wins[1], 1 - wins[0]]}
        )
    return scores


STAGE = Stage(
    name="judge",
    version=1,
    reads=("prompts", "responses"),
    writes=("scores", "rejects"),
    query=_QUERY,
    fn=make,
    facts=facts,
    uses=uses,
)
