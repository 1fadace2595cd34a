"""Ways to choose chosen and rejected: SQL files under pipelines/sql that begin with `-- pairs:`, to read, to run by hand and to copy.

Such a file is a SELECT over responses, scores and prompts that gives prompt_id, chosen_response_id, rejected_response_id, chosen_score and
rejected_score; where it has a column `skipped`, a row in which that is not null is not chosen but counted under that reason (tie, no_score …);
where it has a column `source`, that is the pair's in place of the chosen response's. It may ask for getvariable('scorer'), ('margin') and ('seed').
"""

from schemas.commit import fingerprint
from schemas.errors import UserError
from schemas.recipe import Recipe, included

# Who writes a scorer's scores: section, and the kind it must have there.
_SCORERS = {"given": ("given", None), "check": ("check", None), "rating": ("judge", "rating"), "pairwise": ("judge", "pairwise"), "prompt_gain": ("prompt_gain", None)}


def sql(recipe: Recipe, section: str) -> str:
    """A query that gives, for each choice of the section's `choose`, the columns above; what the file leaves out is null."""
    text = included("sql", recipe.section(section).choose, ".sql").read_text().rstrip().removesuffix(";")
    # The newline ends a comment on the file's last line.
    return f"select * from ({text}\n) union all by name select null::varchar as skipped, null::varchar as source where false"


def settings(recipe: Recipe, section: str) -> dict[str, object]:
    config = recipe.section(section)
    return {"scorer": config.scorer, "margin": config.margin, "seed": recipe.seed}


def facts(recipe: Recipe, section: str) -> dict:
    """What the choice depends on; raises UserError where no section above makes the scores that it asks for."""
    config, text = recipe.section(section), sql(recipe, section)
    found = {"choose": config.choose.rsplit("/", 1)[-1], "choose_sql": fingerprint(text)}
    if "'scorer'" in text:
        if "'no_score'" in text:  # without scores everything would fall out
            _check_scorer(recipe, section, config.scorer)
        found["scorer"] = config.scorer
    if "'margin'" in text:
        found["margin"] = config.margin
    if "'seed'" in text:
        found["seed"] = recipe.seed
    return found


def _check_scorer(recipe: Recipe, section: str, scorer: str) -> None:
    above = list(recipe.sections)[: list(recipe.sections).index(section)]
    if scorer not in _SCORERS:
        raise UserError(f"[{section}] scorer = {scorer}: expected one of {', '.join(_SCORERS)}")
    maker, kind = _SCORERS[scorer]
    if maker not in above or (kind and kind not in recipe.section(maker).kinds):
        able = [name for name, (maker, kind) in _SCORERS.items() if maker in above and (not kind or kind in recipe.section(maker).kinds)]
        what = f'[{maker}] with kinds = ["{kind}"]' if kind else f"[{maker}]"
        raise UserError(f"[{section}] choose = {recipe.section(section).choose} goes by the scores of '{scorer}', which {what} above it would make; "
                        f"add that, or set {section}.scorer to one that there is ({', '.join(able) or 'none yet'})")  # fmt: skip
