"""Gathers all that the page shows of a run, and builds it."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import duckdb

from engine import sql
from engine.report import figures
from engine.report.made import Made, made
from engine.report.page import Content, html
from engine.report.sample import Sample, sample
from engine.report.trainings import Trainings, trainings
from engine.story.tokens import Tokens
from engine.table_files import RunFiles
from engine.views import views_of
from schemas.errors import UserError
from schemas.manifest import RECIPE
from schemas.printable import one_line, printable
from schemas.redaction import redacted
from schemas.store import Store

_MOST_BYTES = 4_900_000


@dataclass(frozen=True)
class Page:
    """The page, and what is said of it on the screen."""

    html: str
    summary: str
    remarks: Sequence[str]


def build(run: Store, more: Sequence[Store], most: int) -> Page:
    """The page of a run, with at most so many pairs. `more`: folders whose trainings are shown, too.

    Raises UserError where there is no run, or where what it holds is damaged."""
    files = RunFiles(run)
    what = made(run, files)
    tokens, why_no_tokens = _tokens_of(run)
    trained = trainings(run, more)
    has_pairs = bool(what.rows.get("pairs"))
    remarks = [*trained.remarks, *([why_no_tokens] if why_no_tokens else [])]
    tables = views_of(files.of_tables())
    with contextlib.closing(sql.closed(dict(tables))) as con:
        content = Content(
            title=one_line(run.name),
            summary=_summary(run, what),
            tiles=_tiles(con, what, trained),
            made=what,
            sample=Sample("", 0, what.rows.get("pairs", 0), 0),
            why_no_tokens=why_no_tokens,
            charts=figures.charts(con, has_pairs, remarks),
            data_tables=figures.tables(con, figures.DATA_TABLES, remarks),
            judge_tables=figures.tables(con, figures.JUDGE_TABLES, remarks),
            reject_tables=figures.tables(con, figures.REJECT_TABLES, remarks),
            beside_tables=figures.tables_beside(run),
            trainings=trained,
            recipe=_recipe(run),
            remarks=remarks,
        )
        room = _MOST_BYTES - len(html(content).encode())
        pairs = sample(con, tokens, most, room)
    return Page(html(replace(content, sample=pairs)), _said(pairs, trained), remarks)


def _tokens_of(run: Store) -> tuple[Tokens | None, str]:
    """What gives the texts of token ids, or why nothing does."""
    try:
        return Tokens.of(run), ""
    except UserError as error:
        return None, f"Tokens are not shown: {one_line(redacted(str(error)))}."


def _summary(run: Store, what: Made) -> str:
    state = "finished" if what.is_finished else "not finished: this is what is there so far"
    return f"{one_line(redacted(str(run)))}: {state}"


def _tiles(con: duckdb.DuckDBPyConnection, what: Made, trained: Trainings) -> list[tuple[str, str]]:
    """The numbers that one looks for first."""
    tiles = [(table, f"{what.rows.get(table, 0):,}") for table in ("prompts", "responses", "pairs")]
    query = """
        select count(*) filter (split = 'test') as held_out,
               avg((ref_chosen_logps > ref_rejected_logps)::int) as agrees,
               avg((chosen_length > rejected_length)::int) as longer
        from pairs
    """
    with sql.ctrl_c():
        ((held_out, agrees, longer),) = con.sql(query).fetchall()
    if held_out:
        tiles.append(("of these held out", f"{held_out:,}"))
    if agrees is not None:
        tiles.append(("the reference prefers chosen", f"{agrees:.0%}"))
    if longer is not None:
        tiles.append(("chosen is longer", f"{longer:.0%}"))
    tiles.append(("rejects", f"{what.rows.get('rejects', 0):,}"))
    if trained.rows:
        tiles.append(("training runs", f"{len(trained.rows):,}"))
    return tiles


def _recipe(run: Store) -> str:
    if not run.exists(RECIPE):
        return ""
    return printable(redacted(run.read(RECIPE).decode(errors="replace")))


def _said(pairs: Sample, trained: Trainings) -> str:
    said = pairs.text if pairs.there else "no pairs yet"
    if trained.rows:
        said += f"; {len(trained.rows)} training run{'s' if len(trained.rows) != 1 else ''}"
    return said
