"""One prompt of a run with all that was made of it: responses, scores, log-probs, pairs."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from engine import sql
from engine.table_files import RunFiles
from engine.views import views_of
from schemas.errors import UserError, did_you_mean
from schemas.store import Store

Row = dict[str, Any]
_TABLES = ("prompts", "responses", "scores", "logprobs", "pairs")
_SHORTEST = 6  # letters of an id that is shortened
# What an id may be of: the table and column that it is looked for in, and what it is called.
_IDS = (
    ("pairs", "pair_id", "pair"),
    ("prompts", "prompt_id", "prompt"),
    ("responses", "response_id", "response"),
)


@dataclass(frozen=True)
class Story:
    """Rows of the tables. `pairs`: the one that was asked for, or all of the prompt's."""

    prompt: Row
    responses: Sequence[Row]
    scores: Sequence[Row]
    logprobs: Sequence[Row]
    pairs: Sequence[Row]

    def scores_of(self, response_id: str) -> list[Row]:
        """The scores of a response, by scorer."""
        return [row for row in self.scores if row["response_id"] == response_id]

    def logps_of(self, response_id: str) -> Row | None:
        """The plain reference log-probs of a response, where it has any."""
        for row in self.logprobs:
            if row["response_id"] == response_id and row["context"] == "plain":
                return row
        return None


def story_of(run: Store, wanted: str | None, worst: str | None) -> Story:
    """The prompt of an id, which may be a pair's, a prompt's or a response's, or the beginning of one.

    `worst`: a scorer; of all pairs the one whose rejected response it puts highest above the chosen one.
    With neither, a pair at random. Raises UserError where there is none."""
    tables = views_of(RunFiles(run).of_tables(_TABLES))
    with contextlib.closing(sql.closed(dict(tables))) as con, sql.ctrl_c():
        if wanted is not None:
            prompt_id, pair_id = _found(con, run, wanted)
        elif worst is not None:
            prompt_id, pair_id = _worst(con, run, worst)
        else:
            prompt_id, pair_id = _any(con, run)
        return _gathered(con, prompt_id, pair_id)


def _found(con: duckdb.DuckDBPyConnection, run: Store, wanted: str) -> tuple[str, str | None]:
    """The prompt of an id, and the pair if it is a pair's."""
    if len(wanted) < _SHORTEST:
        raise UserError(f"{wanted}: give at least {_SHORTEST} letters of an id")
    for table, column, what in _IDS:
        query = (
            f"select distinct {column} as id, prompt_id from {table} where starts_with({column}, ?) limit 2"
        )
        found = sql.rows(con, query, wanted)
        if len(found) > 1:
            raise UserError(f"{wanted}: more than one {what} has an id that begins so; give more letters")
        if found:
            return found[0]["prompt_id"], found[0]["id"] if what == "pair" else None
    raise UserError(
        f"{wanted}: no pair, prompt or response of {run} has such an id; "
        f'`engine sql {run} "select pair_id, prompt from pairs limit 10"` shows some'
    )


def _worst(con: duckdb.DuckDBPyConnection, run: Store, scorer: str) -> tuple[str, str]:
    by_how_much = "rejected_scores[$1] - chosen_scores[$1]"
    query = f"""
        select prompt_id, pair_id from pairs where {by_how_much} is not null
        order by {by_how_much} desc, pair_id limit 1
    """
    worst = sql.rows(con, query, scorer)
    if worst:
        return worst[0]["prompt_id"], worst[0]["pair_id"]
    query = "select distinct unnest(map_keys(chosen_scores)) as scorer from pairs order by 1"
    known = [row["scorer"] for row in sql.rows(con, query)]
    raise UserError(f"no pair of {run} has scores by {scorer} on both sides: {did_you_mean(scorer, known)}")


def _any(con: duckdb.DuckDBPyConnection, run: Store) -> tuple[str, str | None]:
    pairs = sql.rows(con, "select prompt_id, pair_id from pairs using sample 1 rows")
    if pairs:
        return pairs[0]["prompt_id"], pairs[0]["pair_id"]
    prompts = sql.rows(con, "select prompt_id from prompts using sample 1 rows")
    if prompts:
        return prompts[0]["prompt_id"], None
    raise UserError(f"{run} has no prompts yet: `engine status {run}` says what is made")


def _gathered(con: duckdb.DuckDBPyConnection, prompt_id: str, pair_id: str | None) -> Story:
    def of_prompt(table: str, order: str) -> list[Row]:
        return sql.rows(con, f"select * from {table} where prompt_id = ? order by {order}", prompt_id)

    prompts = of_prompt("prompts", "prompt_id")
    pairs = of_prompt("pairs", "pair_id")
    return Story(
        prompt=prompts[0] if prompts else {"prompt_id": prompt_id},
        responses=of_prompt("responses", "source, response_id"),
        scores=of_prompt("scores", "response_id, scorer, comparison_id"),
        logprobs=of_prompt("logprobs", "response_id, context"),
        pairs=[pair for pair in pairs if pair_id in (None, pair["pair_id"])],
    )
