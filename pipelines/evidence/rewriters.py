"""What a rewriter did with the drafts, and what that is worth."""

from contextlib import closing
from pathlib import Path

from engine import sql
from engine.views import views
from pipelines.sandbox.rewards import reward
from schemas.store import open_store

_COUNTED = """
    select count(*)::double as drafts,
           avg((fallback is null)::int) as used,
           avg(edit_to_parent) filter (fallback is null) as words_to_draft,
           avg(edit_between) filter (fallback is null) as words_reference_to_draft
    from responses where source = 'rewritten'
"""
_TEXTS = """
    select prompts.prompt, rewritten.text as rewrite, parent.text as draft
    from responses rewritten
    join responses parent on parent.response_id = rewritten.parent_id
    join prompts on prompts.prompt_id = rewritten.prompt_id
    where rewritten.source = 'rewritten' and rewritten.fallback is null
"""


def rewriter_figures(run: Path) -> dict[str, float]:
    """Of a run's rewrites: how many drafts, the share used, edit distances in words, and the reward gained.

    `words_to_draft`: from ỹ+ to y−; `words_reference_to_draft`: from y+ to y− of the same; `gain`: the true
    reward of ỹ+ less that of y−, of those that are used."""
    with closing(sql.closed(dict(views(open_store(run))))) as con:
        (counted,) = sql.rows(con, _COUNTED)
        texts = sql.rows(con, _TEXTS)
    gains: list[float] = []
    for row in texts:
        messages = [{"role": "user", "content": row["prompt"]}]
        of_rewrite, of_draft = reward(messages, row["rewrite"]), reward(messages, row["draft"])
        assert of_rewrite is not None and of_draft is not None, "every prompt is a problem of the market"
        gains.append(of_rewrite - of_draft)
    return {**counted, "gain": sum(gains) / max(1, len(gains))}
