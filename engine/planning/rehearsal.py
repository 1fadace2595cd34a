"""Some rows of the input through all stages of a run, in memory: nothing is written, no code of the user's is
run and no server is asked.

- What a function of [check] would say nobody can know without it: its scores are any numbers.
- A section whose model is behind a server is given a stand-in with the tokenizer of the recipe's [model]. In
  a recipe without one its questions are counted and no tokens.
- A stand-in's rewrites all serve: whether a real one keeps close to its draft only the model shows.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine import sql
from engine.models import Model
from engine.models.spec import ResolvedModel
from engine.plan import Run
from engine.planning.stand_in import Asked, StandInJudge
from engine.stage import Context, Made, Stage
from engine.stages.judge import judged
from engine.text import Text
from schemas.fields import Section
from schemas.sections import Generate, Judge, Rewrite
from schemas.tables import TABLES, table

_TOKENISED = 200  # responses whose tokens are counted where their lengths are asked for


@dataclass(frozen=True)
class Rehearsed:
    """What a stage made of the rows. `seconds`: of the processor for its function, less those of its model.

    `said`: where the lengths of what its model says are from: `given` (as long as the responses that are
    there), `bound` (as long as they may be) or `measured`; None where it says nothing.
    `uncounted`: no tokenizer is known, so tokens are neither counted nor guessed.

    `batch`: what its function was given."""

    stage: Stage
    batch: pa.Table
    tables: Mapping[str, pa.Table]
    counts: Mapping[str, int]
    asked: Asked
    seconds: float
    said: str | None

    @property
    def rejects(self) -> Counter[str]:
        """Rows refused, by reason."""
        rejects = self.tables.get("rejects")
        return Counter() if rejects is None else Counter(rejects["reason"].to_pylist())


class Cast(Protocol):
    """Who plays the models of a rehearsal."""

    is_real: bool

    def model(self, stage: Stage, resolved: ResolvedModel, length: int | None, asked: Asked) -> Model:
        """The stage's model, or a reward model in its place. `length`: see StandIn."""
        ...

    def text(self, resolved: ResolvedModel) -> Text:
        """The model's tokenizer and template."""
        ...


def rehearse(run: Run, rows: pa.Table, prompts: int, cast: Cast, times: int = 1) -> list[Rehearsed]:
    """All stages of a run on rows of its scan; those below the first one on `prompts` of its prompts.

    Each stage that has a model goes so many times before the next one does, and the last time counts.

    Raises UserError as the stages do."""
    rehearsed: list[Rehearsed] = []
    made: dict[str, Mapping[str, pa.Table]] = {}
    for stage in run.stages:
        batch = rows if stage.scan else _batch(run, stage, made)
        for _ in range(times if stage.name in run.models else 1):
            one = _one(run, stage, batch, cast, made)
        rehearsed.append(one)
        tables = dict(one.tables)
        if stage.scan:
            # They lie in the order of their ids, which are digests: the first ones are a fair sample.
            tables["prompts"] = tables["prompts"].slice(0, prompts)
        made[stage.name] = tables
    return rehearsed


def _batch(run: Run, stage: Stage, made: Mapping[str, Mapping[str, pa.Table]]) -> pa.Table:
    """The rows that the stage's query gives of what the stages above have made."""
    config = run.config(stage)
    query = stage.query if isinstance(stage.query, str) else stage.query(config)
    variables = stage.variables(config, run.recipe.seed) if stage.variables else {}
    tables: dict[str, pa.Table] = {}
    for name in stage.reads:
        parts = [TABLES[name].empty_table()]
        for above in run.above(stage):
            parts.append(made[above.name].get(name, parts[0]))
        tables[name] = pa.concat_tables(parts)
    return sql.over(tables, query, f"[{stage.name}]", variables)


def _one(
    run: Run, stage: Stage, batch: pa.Table, cast: Cast, made: Mapping[str, Mapping[str, pa.Table]]
) -> Rehearsed:
    """One stage on its batch."""
    if stage.runs is not None:
        tables = {"scores": _any_scores(stage, batch)}
        return Rehearsed(stage, batch, tables, {}, Asked(), 0.0, None)
    asked = Asked()
    config = run.config(stage)
    resolved = run.models.get(stage.name)
    asks_server = run.endpoint(stage) is not None
    if asks_server:
        config = _without_server(config)
        resolved = _any_language_model(run)
        if resolved is None:
            return _without_tokens(stage, batch, config)
    length: int | None = None
    said: str | None = None
    if resolved is not None:
        length = None if cast.is_real and not asks_server else _length_above(cast, resolved, made)
        said = _where_lengths_are_from(config, length, cast.is_real and not asks_server)

    opening: list[float] = []

    def open_model() -> Model:
        assert resolved is not None
        begin = time.process_time()
        model = cast.model(stage, resolved, length, asked)
        opening.append(time.process_time() - begin)
        return model

    context = replace(run.context(stage, open_model), model=resolved)
    begin = time.process_time()
    result = _made(stage, batch, config, context)
    seconds = max(0.0, time.process_time() - begin - asked.processor - sum(opening))
    tables = dict(result.tables)
    if isinstance(config, Rewrite) and (asks_server or not cast.is_real) and "responses" in tables:
        tables["responses"] = _serving(tables["responses"], asks_server)
    return Rehearsed(stage, batch, tables, result.counts, asked, seconds, said)


def _any_language_model(run: Run) -> ResolvedModel | None:
    """A model of the recipe whose tokenizer may stand for a server's."""
    for model in (*run.references.values(), *run.models.values()):
        if not model.spec.is_reward:
            return model
    return None


def _without_tokens(stage: Stage, batch: pa.Table, config: Section) -> Rehearsed:
    """A judge that nothing is known of but how many questions it is asked."""
    assert isinstance(config, Judge), "other sections that ask a server compare with the recipe's [model]"
    asked = Asked()
    begin = time.process_time()
    made = judged(batch, config, StandInJudge(asked)) if len(batch) else Made({})
    seconds = max(0.0, time.process_time() - begin - asked.processor)
    return Rehearsed(stage, batch, made.tables, made.counts, asked, seconds, "uncounted")


def _made(stage: Stage, batch: pa.Table, config: Section, context: Context) -> Made:
    made = stage.fn(batch, config, context)
    assert set(made.tables) <= set(stage.writes)
    return made


def _any_scores(stage: Stage, batch: pa.Table) -> pa.Table:
    """A score for each response."""
    scores = np.random.default_rng(0).random(len(batch))
    columns = {
        "prompt_id": batch["prompt_id"],
        "response_id": batch["response_id"],
        "scorer": [stage.name] * len(batch),
        "score": pa.array(scores),
    }
    return table("scores", columns)


def _without_server(config: Section) -> Section:
    """A section as if its model were here."""
    assert isinstance(config, Judge | Rewrite)
    return replace(config, base_url="", model="", template_arguments={})


def _where_lengths_are_from(config: Section, length: int | None, is_measured: bool) -> str | None:
    """See `Rehearsed.said`."""
    if isinstance(config, Judge) and not config.think:
        return None
    if not isinstance(config, Generate | Rewrite | Judge):
        return None
    if is_measured:
        return "measured"
    return "bound" if length is None else "given"


def _length_above(
    cast: Cast, resolved: ResolvedModel, made: Mapping[str, Mapping[str, pa.Table]]
) -> int | None:
    """How many tokens the responses have that the stages above have made; None where there are none."""
    texts: list[str] = []
    for tables in made.values():
        if "responses" in tables:
            texts.extend(tables["responses"]["text"].slice(0, _TOKENISED).to_pylist())
    if not texts or resolved.spec.is_reward:
        return None
    text = cast.text(resolved)
    tokens = sum(len(text.ids(said)) + 1 for said in texts)  # and the end
    return max(1, round(tokens / len(texts)))


def _serving(responses: pa.Table, is_of_server: bool) -> pa.Table:
    """Rewrites as those that serve; a server gives no token ids."""
    nulls = {"fallback"}
    if is_of_server:
        nulls |= {"response_ids", "sampled_token_logps"}
    for name in nulls:
        place = responses.schema.get_field_index(name)
        field = responses.schema.field(name)
        responses = responses.set_column(place, field, pa.nulls(len(responses), field.type))
    place = responses.schema.get_field_index("finish_reason")
    finished = pc.fill_null(responses["finish_reason"], "stop")
    return responses.set_column(place, responses.schema.field("finish_reason"), finished)
