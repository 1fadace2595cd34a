"""The responses that came with the prompts: rows of `responses`, and what the data says of them as rows of `scores`."""

import pyarrow as pa

from engine.ids import content_id
from engine.stage import Made, Stage
from schemas.recipe import Recipe
from schemas.tables import table

_QUERY = """
select prompt_id, answer.text as text, answer.comparison_id as comparison_id, answer.score as score
from (select prompt_id, unnest(given) as answer, unnest(range(len(given))) as place from prompts)
order by prompt_id, place
"""


def make(batch: pa.Table, recipe: Recipe, model: object) -> Made:
    prompts, texts = batch["prompt_id"].to_pylist(), batch["text"].to_pylist()
    ids = [content_id(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    # One text may stand in several comparisons: one response, a score for each.
    first = list({identity: place for place, identity in reversed(list(enumerate(ids)))}.values())
    first.sort()
    responses = {
        "response_id": [ids[place] for place in first],
        "prompt_id": [prompts[place] for place in first],
        "text": [texts[place] for place in first],
        "source": ["given"] * len(first),
    }
    scores = {
        "prompt_id": batch["prompt_id"],
        "response_id": ids,
        "scorer": ["given"] * len(ids),
        "comparison_id": batch["comparison_id"],
        "score": batch["score"],
    }
    return Made(
        {"responses": table("responses", responses), "scores": table("scores", scores)},
        {"responses": len(first)},
    )


STAGE = Stage(
    name="given", version=2, reads=("prompts",), writes=("responses", "scores"), query=_QUERY, fn=make
)
