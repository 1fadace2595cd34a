"""Ways to choose chosen and rejected: SQL files under pipelines/sql that begin with `-- pairs:`, to read, to run by hand and to copy.

Such a file is a SELECT over responses, scores and prompts that gives prompt_id, chosen_response_id, rejected_response_id, chosen_score and
rejected_score; where it has a column `skipped`, a row in which that is not null is not chosen but counted under that reason (tie, no_score …);
where it has a column `source`, that is the pair's in place of the chosen response's. It may ask for getvariable('scorer'), ('margin') and ('seed').
A file that begins with `-- baseline:` gives prompt_id and response_id of one response a prompt, RPO's baseline beside the two.
A line `-- needs: rewrite` names the section without which it chooses nothing, `-- needs: scores` the one that makes the scorer's scores.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

from schemas.commit import fingerprint
from schemas.errors import UserError, did_you_mean
from schemas.extensions import included
from schemas.recipe import Recipe
from schemas.scorers import SCORERS


def sql(recipe: Recipe, section: str) -> str:
    """A query that gives, for each choice of the section's `choose`, the columns above; what the file leaves out is null."""
    return f"select * from ({_file(recipe, section, 'choose')}) union all by name select null::varchar as skipped, null::varchar as source where false"


def baseline(recipe: Recipe) -> str:
    """A query that gives prompt_id and response_id of each prompt's baseline, the first by its id where the file names several; none without pairs.baseline."""
    if not recipe.section("pairs").baseline:
        return "select null::varchar as prompt_id, null::varchar as response_id where false"
    return f"select prompt_id, min(response_id) as response_id from ({_file(recipe, 'pairs', 'baseline')}) group by prompt_id"


def _file(recipe: Recipe, section: str, key: str) -> str:
    """The text of the SQL file that a key names; raises UserError for one that says it is of another kind."""
    name, wanted = getattr(recipe.section(section), key), {"choose": "pairs", "baseline": "baseline"}[key]
    path = included("sql", name, ".sql")
    text = path.read_text()
    kind = re.match(r"-- (pairs|baseline|format|query|macros):", text)
    if kind and kind[1] != wanted:
        known = [
            other.stem for other in path.parent.glob("*.sql") if other.read_text().startswith(f"-- {wanted}:")
        ]
        raise UserError(
            f"[{section}] {key} = {name}: that file is of another kind ('-- {kind[1]}:'); {did_you_mean(name, known)}"
        )
    # The newline ends a comment on the file's last line.
    return text.rstrip().removesuffix(";") + "\n"


def settings(recipe: Recipe, section: str) -> dict[str, object]:
    config = recipe.section(section)
    return {"scorer": config.scorer, "margin": config.margin, "seed": recipe.seed}


def facts(recipe: Recipe, section: str) -> dict:
    """What the choice depends on; raises UserError where no section above makes what the file needs, or a setting would do nothing."""
    config, text = recipe.section(section), sql(recipe, section)
    _check_needs(recipe, section, "choose", text)
    if config.margin and "'margin'" not in text + (baseline(recipe) if section == "pairs" else ""):
        raise UserError(
            f"[{section}] margin = {config.margin:g} does nothing: {config.choose} does not ask for it; choose = above_margin does"
        )
    found = {"choose": config.choose.rsplit("/", 1)[-1], "choose_sql": fingerprint(text)}
    return found | _asked(recipe, section, text)


def baseline_facts(recipe: Recipe) -> dict:
    """As `facts`, of the baseline."""
    name, text = recipe.section("pairs").baseline, baseline(recipe)
    if not name:
        return {}
    _check_needs(recipe, "pairs", "baseline", text)
    return {
        "baseline": name.rsplit("/", 1)[-1],
        "baseline_sql": fingerprint(text),
        **_asked(recipe, "pairs", text),
    }


def _asked(recipe: Recipe, section: str, text: str) -> dict:
    """The settings that the SQL asks for."""
    config = recipe.section(section)
    asked = {"scorer": config.scorer, "margin": config.margin, "seed": recipe.seed}
    return {name: value for name, value in asked.items() if f"'{name}'" in text}


def _check_needs(recipe: Recipe, section: str, key: str, text: str) -> None:
    config = recipe.section(section)
    for need in _needs(text):
        if need == "scores":
            check_scorer(recipe, section, f"{key} = {getattr(config, key)} goes by", config.scorer)
        elif need not in _above(recipe, section):
            raise UserError(
                f"[{section}] {key} = {getattr(config, key)} chooses among what [{need}] makes: add [{need}] above it, or choose in another way"
            )


def _above(recipe: Recipe, section: str) -> list[str]:
    return list(recipe.sections)[: list(recipe.sections).index(section)]


def _needs(text: str) -> list[str]:
    """What a line `-- needs: …` at the file's beginning names: sections, or `scores` for those of the recipe's scorer."""
    line = re.search(r"^-- needs: (.+)$", text, re.MULTILINE)
    return line[1].replace(",", " ").split() if line else []


def skipped(batch: pa.Table) -> dict[str, int]:
    """How many choices fell out, by reason."""
    reasons = batch["skipped"].filter(pc.is_valid(batch["skipped"]))
    return {f"skipped_{row['values']}": row["counts"] for row in reasons.value_counts().to_pylist()}


def check_scorer(recipe: Recipe, section: str, asks: str, scorer: str) -> None:
    """Raises UserError where no section above makes a scorer's scores; `asks` is the setting that goes by them."""
    above = {name: recipe.sections[name] for name in _above(recipe, section)}
    maker = SCORERS[scorer]
    if not maker.made_by(above):
        able = [name for name, other in SCORERS.items() if other.made_by(above)]
        raise UserError(
            f"[{section}] {asks} the scores of '{scorer}', which {maker.how()} above it would make; "
            f"add that, or name one that there is ({', '.join(able) or 'none yet'})"
        )
