"""Chosen and rejected: SQL that a person can read and run by hand chooses; here each choice gets all that the trainer needs.

What the SQL says falls out (ties, missing scores) is counted by its reason. A choice that cannot be made a pair (its response went to
rejects, both sides say the same) is itself a reject, so that nothing is lost in silence.
"""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from engine import choice
from engine.edits import masks
from engine.ids import content_id, share
from engine.stage import Made, Stage
from schemas.identity import identify
from schemas.recipe import Recipe
from schemas.sections import Pairs
from schemas.tables import TABLES, table

_QUERY = """
with choice as ({choose}),
once as (select prompt_id, chosen_response_id, rejected_response_id, max(chosen_score) as chosen_score, min(rejected_score) as rejected_score,
                skipped, source, count(*) as times from choice group by all),
plain as (select * from logprobs where context = 'plain'),
quality as (select * from logprobs where context = 'quality'),
marks as (select response_id, map_from_entries(list(row(scorer, score) order by scorer)) as scores
          from (select response_id, scorer, avg(score) as score from scores where score is not null group by all) group by response_id),
base as ({baseline})
select once.* exclude (source), prompts.file as file, prompts.line as line, prompts.prompt as prompt, c.text as chosen, r.text as rejected,
       coalesce(once.source, c.source) as source, cl.prompt_ids as prompt_ids, cl.response_ids as chosen_ids, rl.response_ids as rejected_ids,
       cl.token_logps as ref_chosen_token_logps, rl.token_logps as ref_rejected_token_logps, cl.logps as ref_chosen_logps, rl.logps as ref_rejected_logps,
       cq.prompt_ids as quality_prompt_ids, cq.token_logps as ref_chosen_quality_token_logps, rq.token_logps as ref_rejected_quality_token_logps,
       cm.scores as chosen_scores, rm.scores as rejected_scores,
       base.response_id as baseline_response_id, bl.response_ids as baseline_ids, bl.token_logps as ref_baseline_token_logps,
       len(cl.prompt_ids)::int as prompt_length, len(cl.response_ids)::int as chosen_length, len(rl.response_ids)::int as rejected_length
from once
left join prompts on prompts.prompt_id = once.prompt_id
left join responses c on c.response_id = chosen_response_id and c.prompt_id = once.prompt_id
left join responses r on r.response_id = rejected_response_id and r.prompt_id = once.prompt_id
left join plain cl on cl.response_id = chosen_response_id
left join plain rl on rl.response_id = rejected_response_id
left join quality cq on cq.response_id = chosen_response_id
left join quality rq on rq.response_id = rejected_response_id
left join marks cm on cm.response_id = chosen_response_id
left join marks rm on rm.response_id = rejected_response_id
left join base on base.prompt_id = once.prompt_id
left join plain bl on bl.response_id = base.response_id and bl.prompt_id = base.prompt_id
order by once.prompt_id, chosen_response_id, rejected_response_id, skipped
"""
_WHY = {
    "no_response": "the SQL names a response that there is not, or that answers another prompt",
    "same_response": "the SQL chose one response as chosen and as rejected",
    "same_text": "chosen and rejected say the same",
    "no_logprobs": "a response of the pair has no log-probs: see the reject of logprobs for it",
    "no_baseline": "the prompt has no baseline response, or that has no log-probs",
    "no_score": "not rated by every scorer of pairs.scored_by: {}",
}


def facts(recipe: Recipe) -> dict:
    """`reference` is what the trainer compares its policy with, so that a pairs folder can travel alone."""
    config: Pairs = recipe.section("pairs")
    model = recipe.section("model")
    reference = identify(model).facts() | {"dtype": model.dtype}
    for scorer in config.scored_by:
        choice.check_scorer(recipe, "pairs", f"scored_by = {list(config.scored_by)} wants", scorer)
    chosen = {**choice.facts(recipe, "pairs"), **choice.baseline_facts(recipe)}
    return {
        "test_share": config.test_share,
        "diff": config.diff,
        "reference": reference,
        "scored_by": sorted(config.scored_by),
        **chosen,
    }


def query(recipe: Recipe) -> str:
    return _QUERY.format(choose=choice.sql(recipe, "pairs"), baseline=choice.baseline(recipe))


def settings(recipe: Recipe) -> dict[str, object]:
    return choice.settings(recipe, "pairs")


def make(batch: pa.Table, recipe: Recipe, model: object) -> Made:
    config: Pairs = recipe.section("pairs")
    counts = choice.skipped(batch)
    chosen = batch.filter(pc.is_null(batch["skipped"]))
    why = _why(chosen, config)
    rows, lost = chosen.filter(pc.is_null(why)), chosen.filter(pc.is_valid(why))
    split = [
        "test" if share(prompt) < config.test_share else "train" for prompt in rows["prompt_id"].to_pylist()
    ]
    repeated = (pc.sum(chosen["times"]).as_py() or 0) - len(chosen)
    counts |= {
        "train": split.count("train"),
        "test": split.count("test"),
        "rejects": len(lost),
        "repeated": int(repeated),
    }
    columns = {name: rows[name] for name in TABLES["pairs"].names if name in rows.column_names}
    columns["pair_id"] = [
        content_id(c, r)
        for c, r in zip(
            rows["chosen_response_id"].to_pylist(), rows["rejected_response_id"].to_pylist(), strict=True
        )
    ]
    columns |= {"split": split} | _masks(rows, config.diff)
    return Made(
        {
            "pairs": table("pairs", columns),
            "rejects": _refused(lost, why.filter(pc.is_valid(why)), config.scored_by),
        },
        counts | _have(rows),
    )


def _have(rows: pa.Table) -> dict[str, int]:
    """How many pairs have what only some losses need: the trainer refuses a loss by this, before it reads a shard."""
    have = {
        "edit_mask": len(rows),
        "quality": len(rows) - rows["quality_prompt_ids"].null_count,
        "baseline": len(rows) - rows["baseline_ids"].null_count,
    }
    have |= {
        f"score.{scorer}": count
        for scorer, count in Counter(scorer for both in _scorers(rows) for scorer in both).items()
    }
    return {f"have_{name}": count for name, count in have.items()}


def _scorers(rows: pa.Table) -> list[set[str]]:
    """For each row the scorers that rated both responses."""
    chosen, rejected = (
        [{scorer for scorer, _ in scores or ()} for scores in rows[f"{side}_scores"].to_pylist()]
        for side in ("chosen", "rejected")
    )
    return [one & other for one, other in zip(chosen, rejected, strict=True)]


def _why(rows: pa.Table, config: Pairs) -> pa.Array:
    """For each choice why it is no pair, null where it is one."""
    reason = pa.nulls(len(rows), pa.string())
    tests = {
        "no_score": pa.array([not both.issuperset(config.scored_by) for both in _scorers(rows)], pa.bool_()),
        "no_baseline": pc.and_(pc.is_null(rows["baseline_ids"]), bool(config.baseline)),
        "no_logprobs": pc.or_(pc.is_null(rows["ref_chosen_logps"]), pc.is_null(rows["ref_rejected_logps"])),
        "same_text": pc.fill_null(pc.equal(rows["chosen"], rows["rejected"]), False),
        "same_response": pc.fill_null(
            pc.equal(rows["chosen_response_id"], rows["rejected_response_id"]), False
        ),
        "no_response": pc.or_(pc.is_null(rows["chosen"]), pc.is_null(rows["rejected"])),
    }
    for name, holds in tests.items():
        reason = pc.if_else(holds, name, reason)
    return reason.combine_chunks() if isinstance(reason, pa.ChunkedArray) else reason


def _masks(rows: pa.Table, diff: str) -> dict[str, pa.Array]:
    sides = [rows[name].combine_chunks() for name in ("chosen_ids", "rejected_ids")]
    found = [masks(c, r, diff) for c, r in zip(*(side.to_pylist() for side in sides), strict=True)]
    return {
        f"{name}_edit_mask": pa.array(
            [pair[number] for pair in found], TABLES["pairs"].field(f"{name}_edit_mask").type
        )
        for number, name in enumerate(("chosen", "rejected"))
    }


def _unrated(scores: list | None, scored_by: tuple[str, ...]) -> list[str]:
    """Those of the scorers that gave a response no score."""
    return [scorer for scorer in scored_by if scorer not in dict(scores or ())]


def _refused(lost: pa.Table, why: pa.Array, scored_by: tuple[str, ...]) -> pa.Table:
    unrated = [_unrated(scores, scored_by) for scores in lost["chosen_scores"].to_pylist()]
    of_chosen = pc.and_(
        pc.equal(why, "no_score"), pa.array([bool(missing) for missing in unrated], pa.bool_())
    )
    chosen_side = pc.or_(pc.or_(pc.is_null(lost["ref_chosen_logps"]), pc.equal(why, "same_text")), of_chosen)
    missing = [
        ", ".join(chosen or _unrated(rejected, scored_by))
        for chosen, rejected in zip(unrated, lost["rejected_scores"].to_pylist(), strict=True)
    ]
    return table(
        "rejects",
        {
            "stage": ["pairs"] * len(lost),
            "reason": why,
            "detail": [
                _WHY[reason].format(names) for reason, names in zip(why.to_pylist(), missing, strict=True)
            ],
            "file": lost["file"],
            "line": lost["line"],
            "prompt_id": lost["prompt_id"],
            "response_id": pc.if_else(chosen_side, lost["chosen_response_id"], lost["rejected_response_id"]),
            "raw": pc.if_else(chosen_side, lost["chosen"], lost["rejected"]),
        },
    )


STAGE = Stage(
    name="pairs",
    version=3,
    reads=("prompts", "responses", "scores", "logprobs"),
    writes=("pairs", "rejects"),
    query=query,
    fn=make,
    facts=facts,
    settings=settings,
)
