"""Every way to choose pairs, on a handful of responses whose choice can be made by hand.

What falls out is counted, not lost.
"""

import pytest

from engine import choice, sql
from schemas.errors import UserError
from schemas.extensions import included
from schemas.sections import Check, Generate, Given, Judge, Pairs
from schemas.tables import table
from tests.engine.planned import planning

RESPONSES = {
    "response_id": ["a1", "a2", "a3", "b1", "b2", "c1", "c2", "d1", "a9", "a8"],
    "prompt_id": ["a", "a", "a", "b", "b", "c", "c", "d", "a", "a"],
    "source": ["generated"] * 8 + ["rewritten"] * 2,
    "text": list("uvwxyzstqp"),
    "parent_id": [None] * 8 + ["a3", "a2"],
    "reference_id": [None] * 8 + ["a1", "a1"],
    "fallback": [None] * 9 + ["copy"],
}
# Prompt a: 5, 3, 1; b: a tie; c: one without a score; d: alone. The scores of another scorer must not count,
# and two of one scorer are averaged.
SCORES = {
    "prompt_id": ["a", "a", "a", "a", "b", "b", "c", "c", "d", "a"],
    "response_id": ["a1", "a2", "a3", "a3", "b1", "b2", "c1", "c2", "d1", "a3"],
    "scorer": ["rating"] * 9 + ["given"],
    "score": [5.0, 3.0, 0.0, 2.0, 4.0, 4.0, 2.0, None, 1.0, 99.0],
}


def chosen(name: str, **settings) -> tuple[set, dict]:
    """(chosen, rejected, their scores) of all pairs, and how many fell out by reason."""
    config = Pairs(choose=name, **settings)
    tables = {"responses": table("responses", RESPONSES), "scores": table("scores", SCORES)}
    rows = sql.over(tables, choice.sql(config), name, choice.variables(config, seed=3)).to_pylist()
    skipped = [row["skipped"] for row in rows if row["skipped"]]
    assert len({row["prompt_id"] for row in rows}) >= (1 if name == "rewritten_vs_parent" else 3)
    return (
        {
            (
                row["chosen_response_id"],
                row["rejected_response_id"],
                row["chosen_score"],
                row["rejected_score"],
            )
            for row in rows
            if not row["skipped"]
        },
        {reason: skipped.count(reason) for reason in skipped},
    )


def test_best_vs_worst():
    assert chosen("best_vs_worst") == ({("a1", "a3", 5.0, 1.0)}, {"tie": 1, "no_score": 2})


def test_best_vs_random_is_the_same_for_a_seed_and_never_the_best():
    pairs, skipped = chosen("best_vs_random")
    ((best, other, score, lower),) = pairs
    assert (best, score, lower) == ("a1", 5.0, {"a2": 3.0, "a3": 1.0}[other]) and skipped == {
        "tie": 1,
        "no_score": 2,
    }
    assert chosen("best_vs_random") == (pairs, skipped)


def test_all_pairs():
    assert chosen("all_pairs") == (
        {("a1", "a2", 5.0, 3.0), ("a1", "a3", 5.0, 1.0), ("a2", "a3", 3.0, 1.0)},
        {"tie": 1, "no_score": 1},
    )


def test_above_margin():
    assert chosen("above_margin", margin=2.5) == (
        {("a1", "a3", 5.0, 1.0)},
        {"tie": 1, "no_score": 1, "below_margin": 2},
    )


def test_rewritten_vs_parent_falls_back_to_what_the_rewrite_was_made_of():
    assert chosen("rewritten_vs_parent") == ({("a9", "a3", None, 1.0), ("a1", "a2", 5.0, 3.0)}, {})


def test_given_goes_by_the_comparison():
    rows = {
        "prompt_id": list("aaaaab"),
        "response_id": ["1", "2", "1", "3", "2", "4"],
        "scorer": ["given"] * 6,
        "comparison_id": list("xxyyzw"),
        "score": [1.0, 0.0, 2.0, 2.0, 1.0, 1.0],
    }
    found = sql.over(
        {"scores": table("scores", rows), "responses": table("responses")},
        choice.sql(Pairs(choose="given")),
        "given",
    ).to_pylist()
    assert sorted(
        (row["chosen_response_id"], row["rejected_response_id"], row["skipped"])
        for row in found
        if row["skipped"] is None
    ) == [("1", "2", None)]
    assert sorted(row["skipped"] for row in found if row["skipped"]) == ["no_score", "no_score", "tie"]


@pytest.mark.parametrize(
    "path", sorted(included("sql", "given", ".sql").parent.glob("*.sql")), ids=lambda path: path.stem
)
def test_every_way_runs_by_hand_and_says_what_it_is(path):
    """Without variables and without our wrapper, as `engine sql RUN \"$(cat file)\"` runs it."""
    first = path.read_text().splitlines()[0]
    assert (
        first.split(":")[0] in ("-- pairs", "-- baseline", "-- query", "-- format", "-- macros")
        and len(first) > 30
    )
    if first.startswith(("-- pairs", "-- baseline")):
        sql.over(
            {"responses": table("responses", RESPONSES), "scores": table("scores", SCORES)},
            path.read_text(),
            path.stem,
        )


def facts(sections: dict, seed: int = 0) -> dict:
    return choice.facts(sections["pairs"], planning(sections, "pairs", seed))


def baseline_facts(sections: dict, seed: int = 0) -> dict:
    return choice.baseline_facts(sections["pairs"], planning(sections, "pairs", seed))


def test_scores_that_nothing_makes_are_refused_by_the_section_that_would_make_them():
    pairs = Pairs(choose="best_vs_worst")
    which = r"scores of 'rating', which \[judge\] with kinds = \[\"rating\"\] above it would make"
    with pytest.raises(UserError, match=rf"{which}; .*\(check\)"):
        facts({"check": Check(), "pairs": pairs})
    with pytest.raises(UserError, match=rf"{which}; .*\(pairwise\)"):
        facts({"judge": Judge(kinds=("pairwise",)), "pairs": pairs})
    with pytest.raises(UserError, match=r"\[judge\]"):
        facts({"pairs": pairs, "judge": Judge()})
    with pytest.raises(UserError, match="scorer = ratings: did you mean 'rating'"):
        Pairs(choose="best_vs_worst", scorer="ratings")
    assert facts({"judge": Judge(), "pairs": pairs})["scorer"] == "rating"
    assert "margin" not in facts({"judge": Judge(), "pairs": pairs})


def test_what_would_choose_nothing_or_do_nothing_is_refused():
    with pytest.raises(UserError, match=r"chooses among what \[given\] makes: add \[given\] above it"):
        facts({"pairs": Pairs()})
    with pytest.raises(UserError, match=r"among what \[rewrite\] makes"):
        facts({"judge": Judge(), "pairs": Pairs(choose="rewritten_vs_parent")})
    with pytest.raises(UserError, match="margin = 2 does nothing: best_vs_worst does not ask for it"):
        facts({"judge": Judge(), "pairs": Pairs(choose="best_vs_worst", margin=2.0)})


def baselines(**values) -> set:
    config = Pairs(**values)
    tables = {"responses": table("responses", RESPONSES), "scores": table("scores", SCORES)}
    rows = sql.over(tables, choice.baseline_sql(config), "baseline", choice.variables(config, seed=3))
    return {(row["prompt_id"], row["response_id"]) for row in rows.to_pylist()}


def test_a_baseline_is_one_of_the_samples_and_the_same_for_a_seed(tmp_path):
    assert baselines() == set()
    found = baselines(baseline="sample")
    assert (
        dict(found).keys() == set("abcd")
        and dict(found)["a"] in ("a1", "a2", "a3")
        and baselines(baseline="sample") == found
    )
    own = tmp_path / "own.sql"
    own.write_text("select prompt_id, response_id from responses where prompt_id = 'a' -- several")
    assert baselines(baseline=str(own)) == {("a", "a1")}


def test_a_baselines_facts_and_what_it_needs():
    sections = {"given": Given(), "generate": Generate(), "pairs": Pairs(baseline="sample")}
    assert baseline_facts(sections, seed=7)["seed"] == 7
    assert baseline_facts({"pairs": Pairs()}) == {}
    with pytest.raises(
        UserError,
        match=r"\[pairs\] baseline = sample chooses among what \[generate\] makes: add \[generate\] above it",
    ):
        baseline_facts({"given": Given(), "pairs": Pairs(baseline="sample")})
    with pytest.raises(UserError, match=r"no 'sampl' in pipelines/sql.*did you mean 'sample'"):
        choice.baseline_sql(Pairs(baseline="sampl"))


def test_a_file_of_another_kind_is_refused_by_the_setting_that_names_it():
    with pytest.raises(
        UserError,
        match=r"\[pairs\] choose = sample: that file is of another kind \('-- baseline:'\); .*best_vs_worst",
    ):
        choice.sql(Pairs(choose="sample"))
    with pytest.raises(UserError, match=r"\[pairs\] baseline = given: that file is of another kind .*sample"):
        choice.baseline_sql(Pairs(baseline="given"))


def test_a_margin_that_the_baseline_asks_for_does_something(tmp_path):
    own = tmp_path / "own.sql"
    own.write_text("select prompt_id, response_id from scores where score > getvariable('margin')")
    sections = {"given": Given(), "pairs": Pairs(baseline=str(own), margin=2.0)}
    assert "margin" not in facts(sections)
    assert baseline_facts(sections)["margin"] == 2.0


def test_the_choice_is_among_finished_responses():
    """The best and the worst were cut off: drop takes the next, keep takes them; a fallback still counts."""
    from schemas.tables import table

    responses = {
        "response_id": list("abcdr"),
        "prompt_id": ["p"] * 5,
        "source": ["generated"] * 4 + ["rewritten"],
        "finish_reason": ["length", "stop", None, "length", "length"],
        "fallback": [None] * 4 + ["unfinished"],
        "parent_id": [None] * 4 + ["c"],
        "reference_id": [None] * 4 + ["b"],
    }
    ids = list("abcd")
    scores = {"response_id": ids, "prompt_id": ["p"] * 4, "scorer": ["rating"] * 4, "score": [9.0, 5, 3, 1]}
    tables = {"responses": table("responses", responses), "scores": table("scores", scores)}

    def chosen(**settings) -> tuple[list[tuple[str, str]], int]:
        config = Pairs(**settings)
        rows = sql.over(tables, choice.query(config), "pairs", choice.variables(config, seed=0)).to_pylist()
        pairs = [row for row in rows if not row["skipped"]]
        skipped = sum(row["skipped"] == "unfinished" for row in rows)
        return [(row["chosen_response_id"], row["rejected_response_id"]) for row in pairs], skipped

    assert chosen(choose="best_vs_worst") == ([("b", "c")], 2)
    assert chosen(choose="all_pairs") == ([("b", "c")], 2)
    assert chosen(choose="best_vs_worst", unfinished="keep") == ([("a", "d")], 0)
    assert chosen(choose="best_vs_worst", unfinished="rejected_only") == ([("a", "d")], 0)
    assert chosen(choose="rewritten_vs_parent") == ([("b", "c")], 2)


def test_a_scorer_whose_section_stands_below_is_told_so():
    """As one that --set has added: it is there, and comes too late."""
    config = Pairs(choose="best_vs_worst", scorer="rating")
    sections = {"generate": Generate(), "pairs": config, "judge": Judge()}
    with pytest.raises(UserError, match=r"stands below: .* one that --set adds comes last"):
        choice.facts(config, planning(sections, "pairs"))
