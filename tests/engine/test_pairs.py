"""The stage that makes pairs: what only some losses need is joined and counted.

Where the recipe insists on it, its lack is a reject.
"""

import pytest

from engine import choice, sql
from engine.stage import Context
from engine.stages import STAGES, pairs
from schemas.errors import UserError
from schemas.scorers import SCORERS, remedy
from schemas.sections import SECTIONS, Given, Model, Pairs
from schemas.tables import table
from tests.engine.planned import planning

A, B = "a" * 32, "b" * 32
# Prompt a has a sample, b's sample has no log-probs; the given responses of b have no rating.
RESPONSES = {
    "response_id": ["a+", "a-", "as", "b+", "b-", "bs"],
    "prompt_id": [A, A, A, B, B, B],
    "source": ["given", "given", "generated"] * 2,
    "text": list("uvwxyz"),
}
SCORES = {
    "prompt_id": [A, A, B, B, A, A, A, B],
    "response_id": ["a+", "a-", "b+", "b-", "a+", "a+", "a-", "b+"],
    "comparison_id": ["1", "1", "2", "2", None, None, None, None],
    "scorer": ["given"] * 4 + ["rating"] * 4,
    "score": [1.0, 0.0, 1.0, 0.0, 3.0, 5.0, 2.0, None],
}
SCORED = ["a+", "a-", "as", "b+", "b-"]
LOGPROBS = {
    "prompt_id": [A, A, A, B, B] * 2,
    "response_id": SCORED * 2,
    "context": ["plain"] * 5 + ["quality"] * 5,
    "prompt_ids": [[1, 2]] * 5 + [[9, 1, 2]] * 5,
    "response_ids": [[3, 4], [3, 5, 6], [7], [3], [4]] * 2,
    "token_logps": [[-1.0, -2.0], [-1.0, -3.0, -4.0], [-5.0], [-6.0], [-7.0]] * 2,
    "logps": [-3.0, -8.0, -5.0, -6.0, -7.0] * 2,
}


def made(logprobs=LOGPROBS, cut=(), **settings):
    config = Pairs(**settings)
    ends = ["length" if response in cut else "stop" for response in RESPONSES["response_id"]]
    responses = RESPONSES | {"finish_reason": ends}
    tables = {
        name: table(name, rows)
        for name, rows in (("responses", responses), ("scores", SCORES), ("logprobs", logprobs))
    }
    tables["prompts"] = table("prompts", {"prompt_id": [A, B], "prompt": ["A?", "B?"]})
    batch = sql.over(tables, pairs.query(config), "pairs", choice.variables(config, seed=0))
    return pairs.make(batch, config, Context(seed=0))


def test_scores_baseline_and_quality_context_are_joined_and_counted():
    found = made()
    first, second = found.tables["pairs"].to_pylist()
    assert (first["chosen_response_id"], second["chosen_response_id"]) == ("a+", "b+")
    assert dict(first["chosen_scores"]) == {"given": 1.0, "rating": 4.0} and dict(
        first["rejected_scores"]
    ) == {"given": 0.0, "rating": 2.0}
    assert dict(second["chosen_scores"]) == {"given": 1.0} and first["baseline_ids"] is None
    assert first["quality_prompt_ids"] == [9, 1, 2] and first["ref_rejected_quality_token_logps"] == [
        -1.0,
        -3.0,
        -4.0,
    ]
    have = {name: count for name, count in found.counts.items() if name.startswith("have_") and count}
    assert have == {"have_edit_mask": 2, "have_quality": 2, "have_score.given": 2, "have_score.rating": 1}


def test_two_texts_of_the_same_tokens_are_no_pair():
    """A template trims, max_length cuts: where nothing tells two sides apart there is nothing to learn."""
    same = [[3, 4], [3, 4], [7], [3], [4]] * 2
    logps = [[-1.0, -2.0], [-1.0, -2.0], [-5.0], [-6.0], [-7.0]] * 2
    found = made(LOGPROBS | {"response_ids": same, "token_logps": logps})
    assert found.tables["pairs"]["chosen_response_id"].to_pylist() == ["b+"]
    (reject,) = found.tables["rejects"].to_pylist()
    assert (reject["reason"], reject["response_id"]) == ("same_ids", "a+")


@pytest.mark.parametrize(
    ("unfinished", "cut", "pairs_made"),
    [
        ("keep", {"a+", "a-"}, 2),
        ("rejected_only", {"a-"}, 2),
        ("rejected_only", {"a+"}, 1),
        ("drop", {"a-"}, 1),
        ("drop", {"b+"}, 1),
        ("drop", {"as"}, 2),
    ],
)
def test_responses_that_were_cut_off_are_counted_or_left_out(unfinished, cut, pairs_made):
    found = made(cut=cut, unfinished=unfinished)
    assert len(found.tables["pairs"]) == pairs_made
    reasons = found.tables["rejects"]["reason"].to_pylist()
    if unfinished == "drop":  # the choice does not see them
        assert reasons == [] and found.counts["skipped_unfinished"] == len(cut)
    else:
        assert reasons == ["unfinished"] * (2 - pairs_made)
    used = sum(
        row["chosen_response_id"] in cut or row["rejected_response_id"] in cut
        for row in found.tables["pairs"].to_pylist()
    )
    assert found.counts["with_unfinished"] == used


def test_a_pair_without_the_baseline_or_the_score_asked_for_is_a_reject():
    found = made(baseline="sample")
    assert found.tables["pairs"]["baseline_ids"].to_pylist() == [[7]] and found.tables["pairs"][
        "baseline_response_id"
    ].to_pylist() == ["as"]
    assert (
        found.tables["pairs"]["ref_baseline_token_logps"].to_pylist() == [[-5.0]]
        and found.counts["have_baseline"] == 1
    )
    found = [found, made(scored_by=("rating",))]
    assert [one.tables["rejects"].select(["reason", "prompt_id"]).to_pylist() for one in found] == [
        [{"reason": "no_baseline", "prompt_id": B}],
        [{"reason": "no_score", "prompt_id": B}],
    ]
    row = found[1].tables["rejects"].to_pylist()[0]
    assert (
        row["detail"] == "not rated by every scorer of pairs.scored_by: rating"
        and row["response_id"] == "b+"
        and row["raw"] == "x"
    )


def test_a_baseline_that_answers_another_prompt_is_none(tmp_path):
    own = tmp_path / "own.sql"
    own.write_text(f"select '{B}' as prompt_id, 'as' as response_id")
    found = made(baseline=str(own))
    assert (
        found.tables["rejects"]["reason"].to_pylist() == ["no_baseline"] * 2
        and not found.tables["pairs"].num_rows
    )


def test_every_scorer_is_made_by_a_section_that_there_is():
    """Engine and trainer both name the makers from this one table."""
    for scorer, maker in SCORERS.items():
        assert "scores" in STAGES[maker.section].writes
        assert f"[{maker.section}]" in remedy(scorer) and maker.kind in remedy(scorer)
        if maker.kind:
            SECTIONS[maker.section](kinds=(maker.kind,))


def test_a_scorer_that_nobody_makes_is_refused(model_path):
    sections = {"model": Model(name=str(model_path)), "given": Given(), "pairs": Pairs(scored_by=("rating",))}
    given = planning(sections, "pairs", reference=sections["model"])
    said = r"scored_by = \['rating'\] wants the scores of 'rating', which \[judge\]"
    with pytest.raises(UserError, match=said):
        pairs.facts(sections["pairs"], given)
