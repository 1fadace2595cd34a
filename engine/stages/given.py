"""The responses that came with the prompts.

They become rows of `responses`, and what the data says of them becomes rows of `scores`.
"""

import pyarrow as pa

from engine.ids import content_id
from engine.stage import Context, Made, Stage
from schemas.sections import Given
from schemas.tables import table

_QUERY = """
with answers as (
    select prompt_id,
           turns,
           unnest(given) as answer,
           unnest(range(len(given))) as place
    from prompts
)
select prompt_id,
       answer.text as text,
       turns[place + 1] as turn,
       answer.comparison_id as comparison_id,
       answer.score as score
from answers
order by prompt_id, place
"""


def make(batch: pa.Table, config: Given, context: Context) -> Made:
    """A response for each text, a score for each row: one text may stand in several comparisons."""
    prompt_ids = batch["prompt_id"].to_pylist()
    texts = batch["text"].to_pylist()
    turns = batch["turn"].to_pylist()
    response_ids: list[str] = []
    first_rows: dict[str, int] = {}
    for row, (prompt_id, text, turn) in enumerate(zip(prompt_ids, texts, turns, strict=True)):
        said = (text,) if turn is None else (text, turn)
        response_id = content_id(prompt_id, *said)
        response_ids.append(response_id)
        first_rows.setdefault(response_id, row)
    places = pa.array(first_rows.values(), pa.int64())
    responses = {
        "response_id": list(first_rows),
        "prompt_id": batch["prompt_id"].take(places),
        "text": batch["text"].take(places),
        "source": ["given"] * len(first_rows),
        "turn": batch["turn"].take(places),
    }
    scores = {
        "prompt_id": batch["prompt_id"],
        "response_id": response_ids,
        "scorer": ["given"] * len(batch),
        "comparison_id": batch["comparison_id"],
        "score": batch["score"],
    }
    tables = {
        "responses": table("responses", responses),
        "scores": table("scores", scores),
    }
    return Made(tables, {"responses": len(first_rows)})


STAGE = Stage(
    name="given",
    version=2,
    reads=("prompts",),
    writes=("responses", "scores"),
    query=_QUERY,
    fn=make,
)
