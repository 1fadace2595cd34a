"""Nothing made is not success: which stage lost everything and why, and an exit status that a script sees."""

import json
import shutil

import pyarrow as pa
import pytest

from engine.stage import Made
from engine.stages.judge import STAGE as JUDGE
from engine.usable import check_shard, usable
from schemas.errors import NothingMade
from schemas.tables import table
from tests.conftest import command, settings

_PAIRS = "[model]\n[prompts]\nshards = 2\n[given]\n[logprobs]\n[pairs]\n"
_JUDGED = (
    "[model]\n[prompts]\nshards = 2\n[given]\n[judge]\n{judge}\n[logprobs]\n"
    "[pairs]\nchoose = 'best_vs_worst'\n"
)
_REWRITTEN = (
    "[model]\n[prompts]\nshards = 1\n[given]\n[rewrite]\nmax_tokens = 3\nscorer = 'given'\n{rewrite}\n"
    "[logprobs]\n[pairs]\nchoose = 'rewritten_vs_parent'\n"
)


@pytest.fixture
def rows(tmp_path):
    """30 preference rows, each with a system message."""
    path = tmp_path / "rows.jsonl"
    lines = []
    for number in range(30):
        row = {"system": "be brief", "prompt": f"Ada has {number} books", "chosen": "5", "rejected": "6 7"}
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines))
    return path


def precompute(tmp_path, recipe: str, code: int, **values) -> str:
    """What `engine precompute` says on both outputs."""
    (tmp_path / "recipe.toml").write_text(recipe)
    done = command(
        "engine",
        "precompute",
        tmp_path / "recipe.toml",
        "-o",
        tmp_path / "run",
        *settings(**values),
        code=code,
    )
    return done.stdout + done.stderr


def test_a_run_that_lost_every_row_says_where_and_why_each_time(tmp_path, rows, model_path):
    own = tmp_path / "model"
    shutil.copytree(model_path, own)
    template = (own / "chat_template.jinja").read_text()
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    (own / "chat_template.jinja").write_text(refusing + template)
    for _ in range(2):
        said = precompute(tmp_path, _PAIRS, 3, prompts__source=rows, model__name=own)
        assert "nothing was made: [logprobs] left everything out (template 60)" in said
        assert "rows.jsonl line" in said and "no system here" in said
    precompute(tmp_path, _PAIRS, 0, prompts__source=rows, model__name=model_path)


def test_rows_that_no_format_reads(tmp_path, model_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "x", "chosen": 5, "rejected": "b"}\n' * 3)
    values = {"prompts__source": tmp_path / "rows.jsonl", "prompts__format": "preference"}
    said = precompute(tmp_path, _PAIRS, 1, **values, model__name=model_path)
    assert "reads none of the first 3 rows of rows.jsonl" in said and "chosen is the number 5" in said
    assert not (tmp_path / "run").exists()


def test_rows_that_are_lost_later_are_told_with_their_reasons(tmp_path, rows, model_path):
    good = rows.read_text()
    bad = '{"prompt": "x", "chosen": 5, "rejected": "b"}\n' * 60 + '{"prompt": "x"\n'
    recipe = "[model]\n[prompts]\nshards = 2\n[given]\n"
    values = {"prompts__format": "preference", "model__name": model_path}
    for text, is_warned in ((good + bad, True), (good * 3 + bad, False)):
        rows.write_text(text)
        said = precompute(tmp_path, recipe, 0, prompts__source=rows, **values)
        assert "refused by [prompts]: missing_or_mistyped 60, bad_json 1; such as rows.jsonl line" in said
        assert ("warning: 61 of 91 rows were refused, more than half" in said) == is_warned


def test_an_input_without_rows(tmp_path, model_path):
    (tmp_path / "rows.jsonl").write_text("\n\n")
    values = {"prompts__source": tmp_path / "rows.jsonl", "prompts__format": "preference"}
    command("engine", "precompute", "--help")
    said = precompute(tmp_path, _PAIRS, 3, **values, model__name=model_path)
    assert "the input has no rows" in said


def test_ties_alone_are_no_pairs(tmp_path, model_path):
    row = {"instruction": "x", "completions": [{"response": letter, "score": 1} for letter in "abc"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    values = {"prompts__source": tmp_path / "rows.jsonl", "prompts__format": "ultrafeedback"}
    said = precompute(tmp_path, _PAIRS, 3, **values, model__name=model_path)
    assert "[pairs] left everything out (tie 1)" in said


def test_a_judge_without_a_mark_stops_at_its_first_shard(tmp_path, rows, model_path):
    """It shows what the judge said and which key to change; no shard of it stays, and the rest is kept."""
    recipe = _JUDGED.format(judge="min_mass = 1.0")
    said = precompute(tmp_path, recipe, 3, prompts__source=rows, model__name=model_path)
    assert "[judge] stopped at its first shard" in said and "judge.rating_prompt" in said
    assert said.count("', '") >= 2, "three of the judge's answers"
    assert not list(tmp_path.glob("run/judge-*/*.parquet"))
    assert list(tmp_path.glob("run/given-*/*.parquet"))
    precompute(
        tmp_path, _JUDGED.format(judge="min_mass = 0.0"), 0, prompts__source=rows, model__name=model_path
    )


def test_a_rewriter_whose_rewrites_cannot_serve_stops_at_its_first_shard(tmp_path, rows, model_path):
    recipe = _REWRITTEN.format(rewrite="too_far = 0.0")
    said = precompute(tmp_path, recipe, 3, prompts__source=rows, model__name=model_path)
    assert "[rewrite] stopped at its first shard" in said and "rewrite.prompt" in said
    assert not list(tmp_path.glob("run/rewrite-*/*.parquet"))


class _Run:
    """As much of a run as the check looks at: how many shards there are, and where the stage's are."""

    shards = 3

    def __init__(self, folder):
        self._folder = folder

    def folder(self, stage):
        return self._folder

    def config(self, stage):
        from schemas.sections import Judge

        return Judge()


def _judged(scores: list[float | None]) -> Made:
    columns = {
        "prompt_id": [f"p{number}" for number in range(len(scores))],
        "score": pa.array(scores, pa.float64()),
        "mass": [0.001] * len(scores),
        "answer": ["I would say"] * len(scores),
    }
    return Made({"scores": table("scores", columns)}, {"unscored": scores.count(None)})


def test_one_unlucky_shard_stops_nothing(tmp_path):
    """A shard of which nothing can be used stops the run unless it is small or another shard was fine."""
    from schemas.manifest import File, Marker, write_marker
    from schemas.store import LocalStore

    folder = LocalStore(tmp_path)
    run = _Run(folder)
    check_shard(run, JUDGE, _judged([None] * 7))  # few rows may all be unlucky
    check_shard(run, JUDGE, _judged([None] * 9 + [3.0]))
    with pytest.raises(NothingMade, match="first shard, of whose 9 rows none"):
        check_shard(run, JUDGE, _judged([None] * 9))
    write_marker(
        folder, Marker(2, (File("00002.scores.parquet", "scores", 5, "0" * 64),), {}, {"unscored": 4})
    )
    check_shard(run, JUDGE, _judged([None] * 9))


def test_where_all_are_refused_only_that_is_said(tmp_path):
    """Answers that the model did not give are not shown as its answers."""
    from schemas.store import LocalStore

    run = _Run(LocalStore(tmp_path))
    made = _judged([None] * 9)
    rejects = table("rejects", {"stage": ["judge"] * 9, "reason": ["refused"] * 9, "detail": ["no room"] * 9})
    nothing_said = {"mass": [None] * 9, "answer": [None] * 9}
    scores = made.tables["scores"]
    refused = table("scores", {name: scores[name] for name in ("prompt_id", "score")} | nothing_said)
    with pytest.raises(NothingMade) as error:
        check_shard(run, JUDGE, Made({"scores": refused, "rejects": rejects}, made.counts))
    assert "refused 9 refused, such as: no room" in str(error.value) and "The judge said" not in str(
        error.value
    )
    with pytest.raises(NothingMade, match=r"no room.*Else.*I would say"):
        check_shard(run, JUDGE, Made(made.tables | {"rejects": rejects}, made.counts))


def test_a_scorer_that_gives_nothing_stops_although_another_does(tmp_path):
    """Only in the first shard, and not by a few rows."""
    from schemas.manifest import File, Marker, write_marker
    from schemas.store import LocalStore

    folder = LocalStore(tmp_path)
    run = _Run(folder)

    def of_two(rated: int, compared: int) -> Made:
        scores = [3.0] * rated + [None] * compared
        own = _judged(scores).tables["scores"]
        columns = {name: own[name] for name in ("prompt_id", "score", "mass", "answer")}
        columns["scorer"] = ["rating"] * rated + ["pairwise"] * compared
        return Made({"scores": table("scores", columns)}, {"unscored": compared})

    check_shard(run, JUDGE, of_two(9, 7))
    with pytest.raises(NothingMade, match="9 scores by pairwise none can be used"):
        check_shard(run, JUDGE, of_two(20, 9))
    write_marker(
        folder, Marker(2, (File("00002.scores.parquet", "scores", 5, "0" * 64),), {}, {"unscored": 4})
    )
    check_shard(run, JUDGE, of_two(20, 9))


def test_what_can_be_used():
    assert usable({"scores": 10, "rejects": 4}, {"unscored": 3}) == 7
    assert usable({"responses": 5, "rejects": 1}, {"fallback_empty": 2, "fallback_copy": 3}) == 0
    assert usable({"rejects": 3}, {"rejects": 3}) == 0
    assert usable({"prompts": 2}, {}) == 2
