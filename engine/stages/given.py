"""The responses that came with the prompts.

They become rows of `responses`, and what the data says of them becomes rows of `scores`: by the scorer
`given` its preference or score, by `given_rating` its own numbers beside a preference. The preference stays
as it is where the numbers tie or contradict it; such comparisons are counted.
"""

from typing import Any

import pyarrow as pa

from engine.ids import content_id
from engine.stage import Context, Made, Stage
from schemas.sections import Given
from schemas.tables import table

_QUERY = """
with answers as (
    select prompt_id,
           unnest(given) as answer,
           unnest(ratings) as rating,
           unnest(range(len(given))) as place
    from prompts
)
select prompt_id,
       answer.text as text,
       answer.comparison_id as comparison_id,
       answer.score as score,
       rating
from answers
order by prompt_id, place
"""


def make(batch: pa.Table, config: Given, context: Context) -> Made:
    """A response for each text, a score for each row: one text may stand in several comparisons."""
    prompt_ids = batch["prompt_id"].to_pylist()
    texts = batch["text"].to_pylist()
    response_ids: list[str] = []
    first_rows: dict[str, int] = {}
    for row, (prompt_id, text) in enumerate(zip(prompt_ids, texts, strict=True)):
        response_id = content_id(prompt_id, text)
        response_ids.append(response_id)
        first_rows.setdefault(response_id, row)
    places = pa.array(first_rows.values(), pa.int64())
    responses = {
        "response_id": list(first_rows),
        "prompt_id": batch["prompt_id"].take(places),
        "text": batch["text"].take(places),
        "source": ["given"] * len(first_rows),
    }
    batch = batch.append_column("response_id", pa.array(response_ids, pa.string()))
    rated = batch.filter(batch["rating"].is_valid())
    scores = pa.concat_tables([_scores(batch, "given", "score"), _scores(rated, "given_rating", "rating")])
    tables = {
        "responses": table("responses", responses),
        "scores": scores,
    }
    return Made(tables, {"responses": len(first_rows)} | _counts(rated.to_pylist()))


def _scores(rows: pa.Table, scorer: str, column: str) -> pa.Table:
    """Rows of `scores` by a scorer, the scores being a column's."""
    scores = {
        "prompt_id": rows["prompt_id"],
        "response_id": rows["response_id"],
        "scorer": [scorer] * len(rows),
        "comparison_id": rows["comparison_id"],
        "score": rows[column],
    }
    return table("scores", scores)


def _counts(rated: list[dict[str, Any]]) -> dict[str, int]:
    """In how many comparisons the data's numbers tie or contradict its preference; none unless rated."""
    if not rated:
        return {}
    compared: dict[str, list[dict[str, Any]]] = {}
    for row in rated:
        compared.setdefault(row["comparison_id"], []).append(row)
    counts = {"ratings_tie": 0, "ratings_contradict": 0}
    for rows in compared.values():
        scored = [row for row in rows if row["score"] is not None]
        better = max(scored, key=lambda row: row["score"], default=None)
        worse = min(scored, key=lambda row: row["score"], default=None)
        if better is None or worse is None or better["score"] == worse["score"]:
            continue
        counts["ratings_tie"] += better["rating"] == worse["rating"]
        counts["ratings_contradict"] += better["rating"] < worse["rating"]
    return counts


STAGE = Stage(
    name="given",
    version=2,
    reads=("prompts",),
    writes=("responses", "scores"),
    query=_QUERY,
    fn=make,
)
