"""Ways to choose chosen and rejected: SQL files under pipelines/sql that begin with `-- pairs:`, to read, to run by hand and to copy.

Such a file is a SELECT over responses, scores and prompts that gives prompt_id, chosen_response_id, rejected_response_id, chosen_score and
rejected_score; where it has a column `skipped`, a row in which that is not null is not chosen but counted under that reason (tie, no_score …);
where it has a column `source`, that is the pair's in place of the chosen response's. It may ask for getvariable('scorer'), ('margin') and ('seed').
A line `-- needs: rewrite` names the section without which it chooses nothing, `-- needs: scores` the one that makes the scorer's scores.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

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
    """What the choice depends on; raises UserError where no section above makes what the file needs, or a setting would do nothing."""
    config, text = recipe.section(section), sql(recipe, section)
    above = list(recipe.sections)[: list(recipe.sections).index(section)]
    for need in _needs(text):
        if need == "scores":
            _check_scorer(recipe, section, config.scorer, above)
        elif need not in above:
            raise UserError(f"[{section}] choose = {config.choose} chooses among what [{need}] makes: add [{need}] above it, or choose in another way")
    if config.margin and "'margin'" not in text:
        raise UserError(f"[{section}] margin = {config.margin:g} does nothing: {config.choose} does not ask for it; choose = above_margin does")
    found = {"choose": config.choose.rsplit("/", 1)[-1], "choose_sql": fingerprint(text)}
    asked = {"scorer": config.scorer, "margin": config.margin, "seed": recipe.seed}
    return found | {name: value for name, value in asked.items() if f"'{name}'" in text}


def _needs(text: str) -> list[str]:
    """What a line `-- needs: …` at the file's beginning names: sections, or `scores` for those of the recipe's scorer."""
    line = re.search(r"^-- needs: (.+)$", text, re.MULTILINE)
    return line[1].replace(",", " ").split() if line else []


def skipped(batch: pa.Table) -> dict[str, int]:
    """How many choices fell out, by reason."""
    reasons = batch["skipped"].filter(pc.is_valid(batch["skipped"]))
    return {f"skipped_{row['values']}": row["counts"] for row in reasons.value_counts().to_pylist()}


def _check_scorer(recipe: Recipe, section: str, scorer: str, above: list[str]) -> None:
    if scorer not in _SCORERS:
        raise UserError(f"[{section}] scorer = {scorer}: expected one of {', '.join(_SCORERS)}")
    maker, kind = _SCORERS[scorer]
    if maker not in above or (kind and kind not in recipe.section(maker).kinds):
        able = [name for name, (maker, kind) in _SCORERS.items() if maker in above and (not kind or kind in recipe.section(maker).kinds)]
        what = f'[{maker}] with kinds = ["{kind}"]' if kind else f"[{maker}]"
        raise UserError(f"[{section}] choose = {recipe.section(section).choose} goes by the scores of '{scorer}', which {what} above it would make; "
                        f"add that, or set {section}.scorer to one that there is ({', '.join(able) or 'none yet'})")  # fmt: skip
