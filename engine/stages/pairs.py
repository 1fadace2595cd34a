"""Chosen and rejected: SQL that a person can read and run by hand chooses; here each choice gets all that the trainer needs.

A choice whose log-probs are missing (its response went to rejects) is itself a reject, so that nothing is lost in silence.
"""

import pyarrow as pa
import pyarrow.compute as pc

from engine.stage import Made, Stage
from engine.text import content_id, share
from schemas.commit import fingerprint
from schemas.identity import identify
from schemas.recipe import Pairs, Recipe, included
from schemas.tables import TABLES, table

_QUERY = """
with choice as ({choose}),
once as (select prompt_id, chosen_response_id, rejected_response_id, max(chosen_score) as chosen_score, min(rejected_score) as rejected_score,
                count(*) as times from choice group by all),
plain as (select * from logprobs where context = 'plain')
select once.*, prompts.file as file, prompts.line as line, prompts.prompt as prompt, c.text as chosen, r.text as rejected, c.source as source,
       cl.prompt_ids as prompt_ids, cl.response_ids as chosen_ids, rl.response_ids as rejected_ids,
       cl.token_logps as ref_chosen_token_logps, rl.token_logps as ref_rejected_token_logps, cl.logps as ref_chosen_logps, rl.logps as ref_rejected_logps,
       len(cl.prompt_ids)::int as prompt_length, len(cl.response_ids)::int as chosen_length, len(rl.response_ids)::int as rejected_length
from once
join prompts using (prompt_id)
join responses c on c.response_id = chosen_response_id
join responses r on r.response_id = rejected_response_id
left join plain cl on cl.response_id = chosen_response_id
left join plain rl on rl.response_id = rejected_response_id
order by prompt_id, chosen_response_id, rejected_response_id
"""


def facts(recipe: Recipe) -> dict:
    """`reference` is what the trainer compares its policy with, so that a pairs folder can travel alone."""
    config: Pairs = recipe.section("pairs")
    model = recipe.section("model")
    return {"choose": config.choose.rsplit("/", 1)[-1], "choose_sql": fingerprint(_choice(recipe)), "test_share": config.test_share, "reference": identify(model).facts() | {"dtype": model.dtype}}


def _choice(recipe: Recipe) -> str:
    return included("sql", recipe.section("pairs").choose, ".sql").read_text().rstrip().removesuffix(";")


def query(recipe: Recipe) -> str:
    # The newline ends a comment on the file's last line.
    return _QUERY.format(choose=_choice(recipe) + "\n")


def make(batch: pa.Table, recipe: Recipe, model: object) -> Made:
    config: Pairs = recipe.section("pairs")
    scored = pc.and_(pc.is_valid(batch["ref_chosen_logps"]), pc.is_valid(batch["ref_rejected_logps"]))
    one = pc.equal(batch["chosen_response_id"], batch["rejected_response_id"])
    rows, lost = batch.filter(pc.and_(scored, pc.invert(one))), batch.filter(pc.or_(pc.invert(scored), one))
    pair_ids = [content_id(c, r) for c, r in zip(rows["chosen_response_id"].to_pylist(), rows["rejected_response_id"].to_pylist(), strict=True)]
    split = ["test" if share(prompt) < config.test_share else "train" for prompt in rows["prompt_id"].to_pylist()]
    columns = {name: rows[name] for name in TABLES["pairs"].names if name in rows.column_names}
    same = pc.equal(lost["chosen_response_id"], lost["rejected_response_id"])
    refused = {
        "stage": ["pairs"] * len(lost),
        "reason": pc.if_else(same, "same_response", "no_logprobs"),
        "detail": pc.if_else(same, "the SQL chose one response as chosen and as rejected", "a response of the pair has no log-probs: see the reject of logprobs for it"),
        "file": lost["file"],
        "line": lost["line"],
        "prompt_id": lost["prompt_id"],
        "response_id": pc.if_else(pc.is_null(lost["ref_chosen_logps"]), lost["chosen_response_id"], lost["rejected_response_id"]),
        "raw": pc.if_else(pc.is_null(lost["ref_chosen_logps"]), lost["chosen"], lost["rejected"]),
    }
    repeated = (pc.sum(batch["times"]).as_py() or 0) - len(batch)
    counts = {"train": split.count("train"), "test": split.count("test"), "rejects": len(lost), "repeated": int(repeated)}
    return Made({"pairs": table("pairs", columns | {"pair_id": pair_ids, "split": split}), "rejects": table("rejects", refused)}, counts)


STAGE = Stage(name="pairs", version=1, reads=("prompts", "responses", "scores", "logprobs"), writes=("pairs", "rejects"), query=query, fn=make, facts=facts)
