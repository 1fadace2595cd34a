"""Scores by log-probs: log ref(y | p⊕x) − log ref(y | x), how much the quality prompt p raises a response's likelihood (methods §3)."""

import pyarrow as pa

from engine.stage import Made, Stage
from schemas.errors import UserError
from schemas.recipe import Recipe
from schemas.tables import table

_QUERY = """
select plain.prompt_id as prompt_id, response_id, quality.logps - plain.logps as score
from (select * from logprobs where context = 'plain') plain join (select * from logprobs where context = 'quality') quality using (response_id)
order by prompt_id, response_id
"""


def facts(recipe: Recipe) -> dict:
    if "quality" not in recipe.section("logprobs").contexts:
        raise UserError(
            '[prompt_gain] compares two contexts: set contexts = ["plain", "quality"] in [logprobs]'
        )
    return {}


def make(batch: pa.Table, recipe: Recipe, model: object) -> Made:
    columns = {name: batch[name] for name in ("prompt_id", "response_id", "score")} | {
        "scorer": ["prompt_gain"] * len(batch)
    }
    return Made({"scores": table("scores", columns)}, {"scored": len(batch)})


STAGE = Stage(
    name="prompt_gain", version=1, reads=("logprobs",), writes=("scores",), query=_QUERY, fn=make, facts=facts
)
