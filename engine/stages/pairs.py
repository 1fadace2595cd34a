"""Chosen and rejected: SQL chooses, and each choice gets all that the trainer needs.

- The SQL is a file that a person can read and run by hand (engine/choice.py).
- What the SQL says falls out (ties, missing scores) is counted by its reason.
- A choice that cannot be made a pair (its response went to rejects, both sides say the same) is itself a
  reject (engine/candidates.py).
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine import choice
from engine.candidates import candidates_of, lost_choices, scorers_of
from engine.edits import masks
from engine.ids import content_id, share
from engine.metadata import of_pairs
from engine.stage import Context, Made, Planning, Stage
from schemas.manifest import Facts
from schemas.quantization import NONE
from schemas.sections import Pairs
from schemas.tables import MASK, TABLES, table

_QUERY = """
with choice as ({choose}),
choices as (
    select prompt_id,
           chosen_response_id,
           rejected_response_id,
           max(chosen_score) as chosen_score,
           min(rejected_score) as rejected_score,
           skipped,
           source,
           min(comparison_id) as comparison_id,
           count(*) as times
    from choice
    group by all
),
plain as (select * from logprobs where context = 'plain'),
quality as (select * from logprobs where context = 'quality'),
mean_scores as (
    select response_id, scorer, avg(score) as score
    from scores
    where score is not null
    group by all
),
marks as (
    select response_id, map_from_entries(list(row(scorer, score) order by scorer)) as scores
    from mean_scores
    group by response_id
),
baseline as ({baseline}),
rated as (
    select response_id, comparison_id, avg(score) as score
    from scores
    where scorer = 'given_rating'
    group by all
),
compared as (
    select response_id, list(distinct struct_pack(comparison_id, score)) as comparisons
    from scores
    where scorer = 'given' and prompt_id in (select prompt_id from prompts where metadata is not null)
    group by response_id
)
select choices.* exclude (source),
       prompts.file as file,
       prompts.line as line,
       prompts.prompt as prompt,
       prompts.given_split as split,
       chosen_response.text as chosen,
       rejected_response.text as rejected,
       chosen_response.finish_reason as chosen_finish_reason,
       rejected_response.finish_reason as rejected_finish_reason,
       coalesce(choices.source, chosen_response.source) as source,
       chosen_plain.prompt_ids as prompt_ids,
       chosen_plain.response_ids as chosen_ids,
       rejected_plain.response_ids as rejected_ids,
       chosen_plain.token_logps as ref_chosen_token_logps,
       rejected_plain.token_logps as ref_rejected_token_logps,
       chosen_plain.logps as ref_chosen_logps,
       rejected_plain.logps as ref_rejected_logps,
       chosen_quality.prompt_ids as quality_prompt_ids,
       chosen_quality.token_logps as ref_chosen_quality_token_logps,
       rejected_quality.token_logps as ref_rejected_quality_token_logps,
       -- The data's own ratings are those of the comparison that the pair is from, where it is from one.
       case when chosen_rated.score is null then chosen_marks.scores
            else map_concat(chosen_marks.scores, map {{'given_rating': chosen_rated.score}})
       end as chosen_scores,
       case when rejected_rated.score is null then rejected_marks.scores
            else map_concat(rejected_marks.scores, map {{'given_rating': rejected_rated.score}})
       end as rejected_scores,
       prompts.metadata as metadata_of_rows,
       chosen_compared.comparisons as chosen_comparisons,
       rejected_compared.comparisons as rejected_comparisons,
       baseline.response_id as baseline_response_id,
       baseline_plain.response_ids as baseline_ids,
       baseline_plain.token_logps as ref_baseline_token_logps,
       len(chosen_plain.prompt_ids)::int as prompt_length,
       len(chosen_plain.response_ids)::int as chosen_length,
       len(rejected_plain.response_ids)::int as rejected_length
from choices
left join prompts on prompts.prompt_id = choices.prompt_id
left join responses chosen_response
       on chosen_response.response_id = chosen_response_id
      and chosen_response.prompt_id = choices.prompt_id
left join responses rejected_response
       on rejected_response.response_id = rejected_response_id
      and rejected_response.prompt_id = choices.prompt_id
left join plain chosen_plain on chosen_plain.response_id = chosen_response_id
left join plain rejected_plain on rejected_plain.response_id = rejected_response_id
left join quality chosen_quality on chosen_quality.response_id = chosen_response_id
left join quality rejected_quality on rejected_quality.response_id = rejected_response_id
left join marks chosen_marks on chosen_marks.response_id = chosen_response_id
left join marks rejected_marks on rejected_marks.response_id = rejected_response_id
left join rated chosen_rated
       on chosen_rated.response_id = chosen_response_id
      and chosen_rated.comparison_id = choices.comparison_id
left join rated rejected_rated
       on rejected_rated.response_id = rejected_response_id
      and rejected_rated.comparison_id = choices.comparison_id
left join compared chosen_compared on chosen_compared.response_id = chosen_response_id
left join compared rejected_compared on rejected_compared.response_id = rejected_response_id
left join baseline on baseline.prompt_id = choices.prompt_id
left join plain baseline_plain
       on baseline_plain.response_id = baseline.response_id
      and baseline_plain.prompt_id = baseline.prompt_id
order by choices.prompt_id, chosen_response_id, rejected_response_id, skipped
"""


def query(config: Pairs) -> str:
    """What the SQL files choose, each choice once, with all that the other tables say of it."""
    return _QUERY.format(
        choose=choice.query(config),
        baseline=choice.baseline_sql(config),
    )


def facts(config: Pairs, planning: Planning) -> Facts:
    """The choice, and the `reference` that the trainer compares its policy with: a pairs folder can travel.

    Raises UserError as choice.facts does, and where a scorer of `scored_by` rates nothing."""
    model = planning.reference()
    reference = model.identity.facts()
    reference["dtype"] = model.spec.config.dtype
    if model.spec.config.quantization != NONE:
        reference["quantization"] = model.spec.config.quantization
    for scorer in config.scored_by:
        asks = f"scored_by = {list(config.scored_by)} wants"
        choice.check_scorer(config, planning, asks, scorer)
    return {
        "test_share": config.test_share,
        "diff": config.diff,
        "reference": reference,
        "scored_by": sorted(config.scored_by),
        **choice.unfinished_facts(config, planning),
        **choice.facts(config, planning),
        **choice.baseline_facts(config, planning),
    }


def make(batch: pa.Table, config: Pairs, context: Context) -> Made:
    """A pair for each choice that has all that it needs, a reject for each other."""
    counts = choice.skipped(batch)
    rows = batch.filter(pc.is_null(batch["skipped"]))
    candidates = candidates_of(rows)
    reasons = [candidate.reason(config) for candidate in candidates]
    is_pair = pc.is_null(pa.array(reasons, pa.string()))
    chosen_rows = rows.filter(is_pair)
    pairs = _pairs_table(chosen_rows, config)
    rejects = lost_choices(rows, candidates, reasons, config.scored_by)
    splits = pairs["split"].to_pylist()
    times_chosen = sum(rows["times"].to_pylist())
    counts |= {
        "train": splits.count("train"),
        "test": splits.count("test"),
        "with_unfinished": _with_unfinished(chosen_rows),
        "rejects": len(rejects),
        "repeated": times_chosen - len(rows),
    }
    counts |= _have_counts(pairs)
    tables = {
        "pairs": pairs,
        "rejects": rejects,
    }
    return Made(tables, counts)


def _with_unfinished(rows: pa.Table) -> int:
    """How many pairs have a response that max_tokens or the model's positions cut off."""
    cut = 0
    for candidate in candidates_of(rows):
        cut += candidate.chosen.is_unfinished or candidate.rejected.is_unfinished
    return cut


def _pairs_table(rows: pa.Table, config: Pairs) -> pa.Table:
    """Rows of `pairs`: what the query gives of them, and their ids, splits and edit masks."""
    columns: dict[str, Any] = {}
    for name in TABLES["pairs"].names:
        if name in rows.column_names:
            columns[name] = rows[name]
    chosen = rows["chosen_response_id"].to_pylist()
    rejected = rows["rejected_response_id"].to_pylist()
    columns["pair_id"] = list(map(content_id, chosen, rejected))
    columns["split"] = _splits(rows, config.test_share)
    columns["metadata"] = of_pairs(
        rows["metadata_of_rows"].to_pylist(),
        rows["comparison_id"].to_pylist(),
        rows["chosen_comparisons"].to_pylist(),
        rows["rejected_comparisons"].to_pylist(),
    )
    columns |= _edit_masks(rows, config.diff)
    return table("pairs", columns)


def _splits(rows: pa.Table, test_share: float) -> list[str]:
    """`test` or `train` for each row, by its prompt: as the input says, else by the prompt's digest.

    All pairs of a prompt are in one split."""
    splits: list[str] = []
    said_of_prompts = zip(rows["prompt_id"].to_pylist(), rows["split"].to_pylist(), strict=True)
    for prompt_id, said in said_of_prompts:
        by_share = "test" if share(prompt_id) < test_share else "train"
        splits.append(said or by_share)
    return splits


def _edit_masks(rows: pa.Table, diff: str) -> dict[str, pa.Array]:
    """The columns of both edit masks."""
    chosen_masks: list[np.ndarray] = []
    rejected_masks: list[np.ndarray] = []
    token_ids = zip(
        rows["chosen_ids"].to_pylist(),
        rows["rejected_ids"].to_pylist(),
        strict=True,
    )
    for chosen_ids, rejected_ids in token_ids:
        chosen_mask, rejected_mask = masks(chosen_ids, rejected_ids, diff)
        chosen_masks.append(chosen_mask)
        rejected_masks.append(rejected_mask)
    return {
        "chosen_edit_mask": pa.array(chosen_masks, MASK),
        "rejected_edit_mask": pa.array(rejected_masks, MASK),
    }


def _have_counts(pairs: pa.Table) -> dict[str, int]:
    """How many pairs have what only some losses need.

    The trainer refuses a loss by this, before it reads a shard."""
    counts = {
        "have_edit_mask": len(pairs),
        "have_quality": pairs["quality_prompt_ids"].drop_null().length(),
        "have_baseline": pairs["baseline_ids"].drop_null().length(),
    }
    both_sides = zip(
        scorers_of(pairs, "chosen"),
        scorers_of(pairs, "rejected"),
        strict=True,
    )
    for of_chosen, of_rejected in both_sides:
        for scorer in of_chosen & of_rejected:
            name = f"have_score.{scorer}"
            counts[name] = counts.get(name, 0) + 1
    return counts


STAGE = Stage(
    name="pairs",
    version=4,
    reads=("prompts", "responses", "scores", "logprobs"),
    writes=("pairs", "rejects"),
    query=query,
    fn=make,
    facts=facts,
    variables=choice.variables,
    compares_with_reference=True,
)
