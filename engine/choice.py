"""Ways to choose chosen and rejected: SQL files to read, to run by hand and to copy.

- The files that ship lie under pipelines/sql and begin with `-- pairs:`. Each is a SELECT over responses,
  scores and prompts.
- It gives prompt_id, chosen_response_id, rejected_response_id, chosen_score and rejected_score.
- It may give `skipped`: a row in which that is not null is not chosen, but counted under that reason (tie,
  no_score …).
- It may give `source`, which is then the pair's source in place of the chosen response's; and
  `comparison_id`, the comparison of `scores` by which it chose: ratings and metadata are then that one's.
- It may ask for getvariable('scorer'), ('margin'), ('label_temperature'), ('label_noise') and ('seed').
- With `unfinished = "drop"` it sees no response that was cut off before its end, and no score of one: what it
  chooses is the best of those that may be chosen. Each response left out is counted, as skipped.
- A line `-- needs: rewrite` names the section without which it chooses nothing; `-- needs: scores` stands for
  the section that makes the scorer's scores.
- A file that begins with `-- baseline:` gives prompt_id and response_id of one response a prompt: RPO's
  baseline beside the two.
"""

import re

import pyarrow as pa
import pyarrow.compute as pc

from engine.stage import Planning
from schemas import extensions
from schemas.digest import fingerprint
from schemas.errors import UserError, did_you_mean
from schemas.manifest import Facts
from schemas.scorers import SCORERS
from schemas.sections import Pairs, Rewrite

# The sections that choose two responses.
Chooser = Pairs | Rewrite

# Variables that few files ask for, and a file that does.
_ASKED_BY = {
    "margin": "above_margin",
    "label_temperature": "bradley_terry",
    "label_noise": "bradley_terry",
}


def sql(config: Chooser) -> str:
    """The query of the section's `choose`: the columns above, null where the file leaves one out.

    Its fingerprint is a fact of the folders: any other wording would make all of them anew. Raises
    UserError where the file is missing or of another kind."""
    file = _read_file(config, "choose", "pairs")
    optional = (
        "select null::varchar as skipped, null::varchar as source, null::varchar as comparison_id where false"
    )
    return f"select * from ({file}) union all by name {optional}"


# What a choice sees under unfinished = "drop". A rewrite that falls back is not chosen itself, but says which
# two are; given responses have no finish_reason.
_FINISHED = """
with responses as (
    select * from responses where finish_reason is distinct from 'length' or fallback is not null
),
scores as (
    select * from scores
    where response_id not in (select response_id from ({cut}))
)
select * from ({chosen})
union all by name
select prompt_id, response_id as chosen_response_id, 'unfinished' as skipped from ({cut})
"""
_CUT = "select prompt_id, response_id from responses where finish_reason = 'length' and fallback is null"


def query(config: Chooser) -> str:
    """The query of `sql` over the responses that the section's `unfinished` lets it choose from.

    What that leaves out is one row a response, skipped as unfinished. Raises UserError as `sql` does."""
    chosen = sql(config)
    if config.unfinished != "drop":
        return chosen
    return _FINISHED.format(chosen=chosen, cut=_CUT.replace("from responses", "from main.responses"))


def unfinished_facts(config: Chooser, planning: Planning) -> Facts:
    """What becomes of unfinished responses: a fact where a section above samples any, and where they are not
    kept as any other, which folders of older versions say nothing of."""
    if config.unfinished == "keep" or not {"generate", "rewrite"} & planning.above.keys():
        return {}
    if config.unfinished == "drop":
        return {"unfinished": "left out of the choice"}
    return {"unfinished": config.unfinished}


def baseline_sql(config: Pairs) -> str:
    """The query of `baseline`: prompt_id and response_id of each prompt's baseline.

    It gives the first by its id where the file names several, and no row if there is no `baseline`. Its
    fingerprint is a fact, as that of `sql`. Raises UserError as `sql` does."""
    if not config.baseline:
        return "select null::varchar as prompt_id, null::varchar as response_id where false"
    file = _read_file(config, "baseline", "baseline")
    return f"select prompt_id, min(response_id) as response_id from ({file}) group by prompt_id"


def _read_file(config: Chooser, key: str, kind: str) -> str:
    """The text of the SQL file that a key names. Raises UserError for one that says it is of another kind."""
    name = getattr(config, key)
    text = extensions.included("sql", name, ".sql").read_text()
    first_word = re.match(r"-- (pairs|baseline|format|query|macros):", text)
    if first_word and first_word[1] != kind:
        known = _shipped_files(kind)
        raise UserError(
            f"{config.title()} {key} = {name}: that file is of another kind ('-- {first_word[1]}:'); "
            f"{did_you_mean(name, known)}"
        )
    # The newline ends a comment on the file's last line.
    return text.rstrip().removesuffix(";") + "\n"


def _shipped_files(kind: str) -> list[str]:
    """The names of the SQL files of a kind that ship."""
    names: list[str] = []
    for path in extensions.files("sql", ".sql"):
        if path.read_text().startswith(f"-- {kind}:"):
            names.append(path.stem)
    return names


def variables(config: Chooser, seed: int) -> dict[str, object]:
    """The variables that the SQL may ask for by getvariable('name')."""
    return {
        "scorer": config.scorer,
        "margin": config.margin,
        "label_temperature": config.label_temperature,
        "label_noise": config.label_noise,
        "seed": seed,
    }


def facts(config: Chooser, planning: Planning) -> Facts:
    """What the choice depends on: the file and the variables that it asks for.

    Raises UserError where no section above makes what the file needs, or where a variable does nothing."""
    text = sql(config)
    _check_needs(config, planning, "choose", text)
    _check_variables(config)
    own: Facts = {
        "choose": _file_name(config.choose),
        "choose_sql": fingerprint(text),
    }
    return own | _asked_variables(config, planning.seed, text)


def baseline_facts(config: Pairs, planning: Planning) -> Facts:
    """What the choice of the baseline depends on; empty if there is none. Raises UserError."""
    text = baseline_sql(config)
    if not config.baseline:
        return {}
    _check_needs(config, planning, "baseline", text)
    own: Facts = {
        "baseline": _file_name(config.baseline),
        "baseline_sql": fingerprint(text),
    }
    return own | _asked_variables(config, planning.seed, text)


def _file_name(name: str) -> str:
    """A file's name without its folder: a run may be moved to where the file lies elsewhere."""
    return name.rsplit("/", 1)[-1]


def _check_variables(config: Chooser) -> None:
    """Raise UserError where a variable was set that none of the section's SQL files asks for."""
    text = sql(config)
    if isinstance(config, Pairs):
        text += baseline_sql(config)
    for name, able in _ASKED_BY.items():
        value = getattr(config, name)
        if value != getattr(type(config), name) and f"'{name}'" not in text:
            raise UserError(
                f"{config.title()} {name} = {value:g} does nothing: "
                f"{config.choose} does not ask for it; choose = {able} does"
            )


def _asked_variables(config: Chooser, seed: int, text: str) -> Facts:
    """The variables that the SQL asks for, with their values."""
    asked: Facts = {}
    for name, value in variables(config, seed).items():
        if f"'{name}'" in text:
            asked[name] = value
    return asked


def _check_needs(config: Chooser, planning: Planning, key: str, text: str) -> None:
    """Raise UserError where no section above makes what the file's line `-- needs: …` names."""
    setting = f"{key} = {getattr(config, key)}"
    for need in _needs(text):
        if need == "scores":
            check_scorer(config, planning, f"{setting} goes by", config.scorer)
        elif need not in planning.above:
            raise UserError(
                f"{config.title()} {setting} chooses among what [{need}] makes: "
                f"add [{need}] above it, or choose in another way"
            )


def _needs(text: str) -> list[str]:
    """What a line `-- needs: …` names: sections, or `scores` for those of the recipe's scorer."""
    line = re.search(r"^-- needs: (.+)$", text, re.MULTILINE)
    return line[1].replace(",", " ").split() if line else []


def check_scorer(config: Chooser, planning: Planning, asks: str, scorer: str) -> None:
    """Raise UserError if no section above makes a scorer's scores; `asks` names the setting."""
    maker = SCORERS[scorer]
    if maker.made_by(planning.above):
        return
    if maker.made_by(planning.below):
        raise UserError(
            f"{config.title()} {asks} the scores of '{scorer}', which {maker.how()} makes, but that stands "
            "below: sections run in their order, and one that --set adds comes last; write it into the "
            f"recipe above {config.title()}"
        )
    able = [name for name, other in SCORERS.items() if other.made_by(planning.above)]
    raise UserError(
        f"{config.title()} {asks} the scores of '{scorer}', which {maker.how()} above it would make; "
        f"add that, or name one that there is ({', '.join(able) or 'none yet'})"
    )


def skipped(batch: pa.Table) -> dict[str, int]:
    """How many choices fell out, by reason."""
    reasons = batch["skipped"].filter(pc.is_valid(batch["skipped"]))
    counts: dict[str, int] = {}
    for entry in reasons.value_counts().to_pylist():
        counts[f"skipped_{entry['values']}"] = entry["counts"]
    return counts
