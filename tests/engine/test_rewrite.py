"""A rewrite that can serve becomes a pair with its parent.

One that cannot is kept with its reason, and the pair is what it came from.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.commands.precompute import precompute
from engine.models import Sample
from engine.stage import Context
from engine.stages import rewrite
from engine.stages.rewrite import rewritten_response
from schemas.recipe import load
from schemas.sections import Model, Rewrite
from schemas.tables import MESSAGES
from tests.engine.planned import context

ROW = {
    "prompt_id": "p",
    "chosen_response_id": "c",
    "rejected_response_id": "r",
    "chosen": "the sum of both is nine",
    "rejected": "First we add: it is ten.",
}


@pytest.mark.parametrize(
    ("text", "finish", "fallback", "to_parent"),
    [
        ("First we add: it is nine.", "stop", None, 1),
        ("", "stop", "empty", 8),
        (" ", "length", "empty", 8),
        ("First we add:", "length", "unfinished", 4),
        ("First we  add : it is ten .", "stop", "unchanged", 0),
        ("the sum of both is nine", "stop", "copy", 7),
        ("something else that has nothing at all to do with it", "stop", "too_far", 11),
    ],
)
def test_reasons_and_distances_by_hand(text, finish, fallback, to_parent):
    found = rewritten_response(ROW, text, finish, 1.0)
    assert (found["fallback"], found["edit_to_parent"], found["edit_between"]) == (fallback, to_parent, 7)
    assert (
        found["parent_id"] == "r"
        and found["reference_id"] == "c"
        and found["length_ratio"] == pytest.approx({1: 8, 8: 0, 4: 4, 0: 8, 7: 6, 11: 11}[to_parent] / 8)
    )


def test_too_far_is_the_recipes_to_say():
    far = "First we add them: it is really just nine."
    assert (
        rewritten_response(ROW, far, "stop", 1.0)["fallback"] is None
        and rewritten_response(ROW, far, "stop", 0.3)["fallback"] == "too_far"
    )


class Says:
    """A rewriter that gives these answers, one after another."""

    def __init__(self, text, answers):
        self.text, self.answers = text, answers

    def generate(self, prompts, seeds, sampling):
        tokenizer = self.text.tokenizer
        ids = [
            [*tokenizer(answer, add_special_tokens=False).input_ids, self.text.end_id]
            for answer in self.answers[: len(prompts)]
        ]
        return [[Sample(row, [-1.0] * len(row), "stop")] for row in ids]


def batch(rows: list[dict]) -> pa.Table:
    columns = {
        name: [row[name] for row in rows]
        for name in ("prompt_id", "chosen_response_id", "rejected_response_id", "chosen", "rejected")
    }
    columns |= {
        "response_id": columns["rejected_response_id"],
        "file": ["f"] * len(rows),
        "line": list(range(len(rows))),
        "skipped": pa.array([row.get("skipped") for row in rows], pa.string()),
    }
    return pa.table(
        columns
        | {
            "messages": pa.array(
                [[{"role": "user", "content": row.get("asked", "What is it?")}] for row in rows], MESSAGES
            )
        }
    )


def test_no_row_is_lost_whatever_the_rewriter_says(model_path):
    from tests.engine.test_hf import open_hf

    answers = ["First we add: it is nine.", "", "}}<|end|>{{", "the sum of both is nine", "no " * 40]
    rows = [ROW | {"prompt_id": f"p{n}", "rejected_response_id": f"r{n}"} for n in range(5)] + [
        ROW | {"prompt_id": "p5", "rejected_response_id": "r5", "asked": "long " * 600}
    ]
    says = Says(open_hf(model_path).text, answers)
    own = context(Model(name=str(model_path)), model=says)
    result = rewrite.make(batch(rows), Rewrite(), own)
    found = {row["parent_id"]: row for row in result.tables["responses"].to_pylist()}
    assert [found[f"r{n}"]["fallback"] for n in range(6)] == [
        None,
        "empty",
        found["r2"]["fallback"],
        "copy",
        "too_far",
        "too_long",
    ]
    assert len({row["response_id"] for row in found.values()}) == 6 and [
        row["response_id"] for row in result.tables["rejects"].to_pylist()
    ] == ["r5"]
    assert found["r0"]["response_ids"] and len(found["r0"]["response_ids"]) == len(
        found["r0"]["sampled_token_logps"]
    )
    skipped = rewrite.make(batch([ROW | {"skipped": "tie"}]), Rewrite(), Context(seed=0))
    assert skipped.counts == {"skipped_tie": 1}
    assert (
        result.counts["rewritten"]
        + sum(count for name, count in result.counts.items() if name.startswith("fallback_"))
        == 6
    )


def test_another_models_tokens_are_not_kept(model_path, tmp_path):
    """Its ids mean nothing to the reference model: the text is tokenised for that one by logprobs."""
    import shutil

    from safetensors.torch import load_file, save_file

    from tests.engine.test_hf import open_hf

    other, alias = tmp_path / "other", tmp_path / "alias"
    shutil.copytree(model_path, other)
    alias.symlink_to(model_path)
    tensors = load_file(other / "model.safetensors")
    save_file(
        {name: tensor * 1.01 for name, tensor in tensors.items()},
        other / "model.safetensors",
        {"format": "pt"},
    )
    for path, kept in ((other, False), (alias, True)):
        reference = Model(name=str(model_path))
        config = Rewrite(model=str(path))
        assert rewrite.model_spec(config, reference).config.name == str(path)
        says = Says(open_hf(model_path).text, ["First we add: it is nine."])
        result = rewrite.make(batch([ROW]), config, context(reference, str(path), says))
        (row,) = result.tables["responses"].to_pylist()
        assert (
            row["fallback"] is None
            and (row["response_ids"] is not None) == (row["sampled_token_logps"] is not None) == kept
        )


def test_the_whole_way_with_a_model_that_knows_nothing(model_path, tmp_path):
    """Random weights judge and rewrite garbage; two models, two phases.

    Every prompt still ends as a pair, a skip that is counted, or a reject."""
    import shutil

    from pipelines.sandbox import world

    other = tmp_path / "other"
    shutil.copytree(model_path, other)
    prompts, recipe, run = tmp_path / "prompts.jsonl", tmp_path / "r.toml", tmp_path / "run"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in world.prompts(5, 24)))
    recipe.write_text(
        "[model]\n[prompts]\nshards = 3\n[generate]\nn = 3\nmax_tokens = 24\n"
        "[judge]\nkinds = ['rating', 'pairwise']\nmin_mass = 0.0\n[rewrite]\nmax_tokens = 250\n"
        "temperature = 1.0\ntoo_far = 999.0\n"
        "[check]\nfunction = 'pipelines.sandbox.world:reward'\n"
        "[logprobs]\ncontexts = ['plain', 'quality']\n[prompt_gain]\n"
        "[pairs]\nchoose = 'rewritten_vs_parent'\nunfinished = 'keep'\n"
    )
    words = [f"prompts.source={prompts}", f"model.name={model_path}", f"rewrite.model={other}"]
    precompute(run, load(recipe, words), 1)
    read = {
        name: [row for path in run.glob(f"*/*.{name}.parquet") for row in pq.read_table(path).to_pylist()]
        for name in ("prompts", "responses", "scores", "logprobs", "pairs", "rejects")
    }
    generated = [row for row in read["responses"] if row["source"] == "generated"]
    rewritten = [row for row in read["responses"] if row["source"] == "rewritten"]
    assert len(generated) == 72 and len(rewritten) == 24
    ratings, matches = (
        [row for row in read["scores"] if row["scorer"] == scorer] for scorer in ("rating", "pairwise")
    )
    assert len(ratings) == 72 and len(matches) <= 24 * 6 and all(1 <= row["score"] <= 5 for row in ratings)
    assert {row["prompt_id"] for row in read["pairs"]} | {row["prompt_id"] for row in read["rejects"]} == {
        row["prompt_id"] for row in read["prompts"]
    }
    assert len(read["pairs"]) + sum(row["stage"] == "pairs" for row in read["rejects"]) == 24
    scored = [row for row in read["responses"] if not row["fallback"]]
    assert (
        len(read["logprobs"])
        == 2 * len(scored)
        == 2 * sum(row["scorer"] == "prompt_gain" for row in read["scores"])
    )
    for pair in read["pairs"]:
        assert (
            len(pair["chosen_edit_mask"])
            == len(pair["chosen_ids"])
            == len(pair["ref_chosen_quality_token_logps"])
            == len(pair["ref_chosen_token_logps"])
        )
        assert (
            len(pair["rejected_edit_mask"])
            == len(pair["rejected_ids"])
            == len(pair["ref_rejected_quality_token_logps"])
        )
        assert len(pair["quality_prompt_ids"]) > len(pair["prompt_ids"]) and pair["source"] in (
            "rewritten",
            "fallback",
            "generated",
        )
    by_context = {(row["response_id"], row["context"]): row for row in read["logprobs"]}
    for (identity, name), row in by_context.items():
        assert row["response_ids"] == by_context[identity, "plain"]["response_ids"], (
            "the response's tokens differ between the contexts"
        )
        assert (row["prompt_ids"] == by_context[identity, "plain"]["prompt_ids"]) == (name == "plain")
    gain = next(row for row in read["scores"] if row["scorer"] == "prompt_gain")
    assert gain["score"] == pytest.approx(
        by_context[gain["response_id"], "quality"]["logps"]
        - by_context[gain["response_id"], "plain"]["logps"]
    )
