"""Charts and tables of a run's data: lengths, scores, margins, judges, rewrites. Each is counted in SQL."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from engine import sql
from engine.cells import cell
from engine.ready import ready, text_of
from engine.tables_beside import names_beside, read_beside
from schemas.charts import CHOSEN, NEUTRAL, REJECTED, Chart, by_name, color_of
from schemas.printable import one_line
from schemas.store import Store

_BINS = 40
_MOST_ROWS = 40  # of a table beside the run's
_SIDES = {"chosen": CHOSEN, "rejected": REJECTED}
_MOST_SERIES = 8


@dataclass(frozen=True)
class Table:
    """Rows for the page, as texts."""

    title: str
    what: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Histogram:
    """How often values occur. `query` gives columns series and value; `colors`: of known series."""

    name: str
    title: str
    axis: str
    query: str
    colors: dict[str, str]
    are_whole: bool = False


_LENGTHS = """
    select 'prompt' as series, prompt_length as value from pairs
    union all select 'chosen', chosen_length from pairs
    union all select 'rejected', rejected_length from pairs
"""
_LETTERS = "select source as series, length(text) as value from responses"
_HISTOGRAMS = (
    Histogram(
        "lengths",
        "Lengths of the pairs",
        "tokens",
        _LENGTHS,
        {"prompt": NEUTRAL, "chosen": CHOSEN, "rejected": REJECTED},
        are_whole=True,
    ),
    Histogram("letters", "Lengths of the responses, by source", "characters", _LETTERS, {}, are_whole=True),
    Histogram(
        "margins",
        "Margin of the score that the choice went by",
        "chosen − rejected",
        "select source as series, chosen_score - rejected_score as value from pairs",
        {},
    ),
    Histogram(
        "ref_margins",
        "The reference's own preference",
        "log-prob of chosen − rejected, nat",
        "select source as series, ref_chosen_logps - ref_rejected_logps as value from pairs",
        {},
    ),
    Histogram(
        "edits",
        "How far rewrites are from what they mend",
        "words changed",
        "select coalesce(fallback, 'used') as series, edit_to_parent as value from responses "
        "where source = 'rewritten'",
        {},
        are_whole=True,
    ),
)
_SCORES_OF_PAIRS = """
    select 'chosen' as series, chosen_scores[$1] as value from pairs
    union all select 'rejected', rejected_scores[$1] from pairs
"""
_SCORES = "select 'all' as series, score as value from scores where scorer = $1"
# Who says which of a pair is better, beside every scorer: the choice itself, and the reference.
_BETTER = {
    "chosen": "1",
    "reference": "sign(ref_chosen_logps - ref_rejected_logps)",
}
# Ready queries that are shown as they are, by the part of the page.
DATA_TABLES = ("overview", "sources", "rewrites", "length_bias")
JUDGE_TABLES = ("judge_bias", "judge_and_truth")
REJECT_TABLES = ("rejects",)


def tables(con: duckdb.DuckDBPyConnection, names: Sequence[str], remarks: list[str]) -> list[Table]:
    """The answers of ready queries; those without a row are left out, and those too large with a remark."""
    found: list[Table] = []
    known = ready()
    for name in names:
        if name not in known:
            continue
        with _left_out(f"the table {name}", remarks), sql.ctrl_c():
            answer = con.sql(text_of(name)).to_arrow_table()
            rows = [_texts(row) for row in answer.to_pylist()]
            if rows:
                found.append(Table(name, known[name].what, answer.column_names, rows))
    return found


def tables_beside(run: Store) -> list[Table]:
    """The first rows of the tables that lie beside the run's. Raises UserError for one that is damaged."""
    found: list[Table] = []
    for name in names_beside(run):
        rows = read_beside(run, name)
        first = rows.slice(0, _MOST_ROWS)
        what = (
            f"{len(rows):,} rows"
            if len(rows) == len(first)
            else f"the first {len(first)} of {len(rows):,} rows"
        )
        found.append(Table(name, what, rows.column_names, [_texts(row) for row in first.to_pylist()]))
    return found


def _texts(row: dict[str, Any]) -> list[str]:
    """A row's values as the page shows them."""
    return ["–" if value is None else cell(value, 200) for value in row.values()]


@contextlib.contextmanager
def _left_out(what: str, remarks: list[str]) -> Iterator[None]:
    """Add a remark in place of what takes more memory than a query may."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        remarks.append(f"{what} is left out: counting it takes more memory than a query may hold here")


def charts(con: duckdb.DuckDBPyConnection, has_pairs: bool, remarks: list[str]) -> dict[str, Chart]:
    """Name -> chart, for those that have something to show. Each is counted in scans of one table."""
    found: dict[str, Chart] = {}
    for histogram in _HISTOGRAMS:
        rows = _bins(con, histogram.query, [], histogram.are_whole)
        if rows:
            found[histogram.name] = _histogram_chart(histogram.title, histogram.axis, rows, histogram.colors)
    scorers = _scorers(con, has_pairs)
    for scorer in scorers:
        rows = _bins(con, _SCORES_OF_PAIRS if has_pairs else _SCORES, [scorer], are_whole=False)
        if rows:
            title = f"Scores by {one_line(scorer)}"
            colors = _SIDES if has_pairs else {}
            found[f"scores {one_line(scorer)}"] = _histogram_chart(title, "score", rows, colors)
    with _left_out("who agrees with whom", remarks):
        agreement = _agreement(con, scorers) if has_pairs else []
        if agreement:
            found["agreement"] = _agreement_chart(agreement)
    return found


def _scorers(con: duckdb.DuckDBPyConnection, has_pairs: bool) -> list[str]:
    """Who rated most, of the pairs or of all responses."""
    rated = "select unnest(map_keys(chosen_scores)) as scorer from pairs"
    if not has_pairs:
        rated = "select scorer from scores where score is not null"
    query = (
        f"select scorer from ({rated}) group by scorer order by count(*) desc, scorer limit {_MOST_SERIES}"
    )
    return [row["scorer"] for row in sql.rows(con, query)]


def _agreement(con: duckdb.DuckDBPyConnection, scorers: Sequence[str]) -> list[dict[str, Any]]:
    """For each two who judge: in how many of the pairs that both judged they say the same; a tie is half."""
    better = dict(_BETTER)
    for place, scorer in enumerate(scorers, 1):
        better[scorer] = f"sign(chosen_scores[${place}] - rejected_scores[${place}])"
    names = list(better)
    columns = [f"{expression} as s{place}" for place, expression in enumerate(better.values())]
    said: list[str] = []
    for one, other in itertools.combinations_with_replacement(range(len(names)), 2):
        alike = f"case when s{one} = s{other} then 1 when 0 in (s{one}, s{other}) then 0.5 else 0 end"
        both = f"s{one} is not null and s{other} is not null"
        said.append(f"avg({alike}) filter ({both}) as share_{one}_{other}")
        said.append(f"count(*) filter ({both}) as pairs_{one}_{other}")
    query = f"select {', '.join(said)} from (select {', '.join(columns)} from pairs)"
    (counted,) = sql.rows(con, query, *scorers)
    rows: list[dict[str, Any]] = []
    for one, other in itertools.product(range(len(names)), repeat=2):
        both = f"{min(one, other)}_{max(one, other)}"
        if counted[f"pairs_{both}"]:
            row = {"one": names[one], "other": names[other]}
            rows.append(row | {"share": counted[f"share_{both}"], "pairs": counted[f"pairs_{both}"]})
    return rows


def _bins(
    con: duckdb.DuckDBPyConnection, query: str, values: list[object], are_whole: bool
) -> list[dict[str, Any]]:
    """Rows of series, low, high and count. What lies far outside is counted in the first and last bin."""
    finite = f"select series, value from ({query}) where isfinite(value::double)"
    ends = "quantile_cont(value, 0.002) as low, quantile_cont(value, 0.998) as high"
    (span,) = sql.rows(con, f"select {ends} from ({finite})", *values)
    low, high = span["low"], span["high"]
    if low is None:
        return []
    width = (high - low) / _BINS or 1.0
    if are_whole:
        low, width = float(int(low)), float(max(1, math.ceil(width)))
    place = f"least(greatest(floor((value - {low!r}) / {width!r}), 0), {_BINS})"
    counted = f"select coalesce(series, '') as series, {place} as bin, count(*) as count from ({finite})"
    rows = sql.rows(con, f"{counted} group by all order by all", *values)
    for row in rows:
        number = row.pop("bin")
        row["series"] = one_line(row["series"])
        row["low"] = _short(low + number * width)
        row["high"] = _short(low + (number + 1) * width)
    return rows


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _histogram_chart(title: str, axis: str, rows: list[dict[str, Any]], colors: dict[str, str]) -> Chart:
    """Bars side by side over each other, half transparent."""
    names = list(colors) or sorted({row["series"] for row in rows})
    palette = list(colors.values()) or [color_of(place) for place in range(len(names))]
    legend = {"orient": "top", "title": None} if len(names) > 1 else None
    x = {"field": "low", "bin": {"binned": True}, "type": "quantitative", "title": axis}
    x |= {"axis": {"labelOverlap": True}}
    return {
        "title": title,
        "height": 180,
        "data": {"values": rows},
        "mark": {"type": "bar", "opacity": 0.55, "binSpacing": 0},
        "encoding": {
            "x": x,
            "x2": {"field": "high"},
            "y": {"field": "count", "type": "quantitative", "title": None, "stack": None},
            "color": {
                "field": "series",
                "type": "nominal",
                "legend": legend,
                "scale": by_name(names, palette),
            },
            "tooltip": [
                {"field": "series", "type": "nominal"},
                {"field": "low", "type": "quantitative", "title": "from"},
                {"field": "high", "type": "quantitative", "title": "to"},
                {"field": "count", "type": "quantitative"},
            ],
        },
    }


def _agreement_chart(rows: list[dict[str, Any]]) -> Chart:
    """A square for each two: in how many of the pairs that both judged they say the same."""
    values = [row | {"one": one_line(row["one"]), "other": one_line(row["other"])} for row in rows]
    x = {"field": "one", "type": "nominal", "title": None, "axis": {"labelAngle": -35}}
    y = {"field": "other", "type": "nominal", "title": None}
    share = {"field": "share", "type": "quantitative", "format": ".0%"}
    color = {
        "field": "share",
        "type": "quantitative",
        "legend": None,
        "scale": {"domain": [0, 0.5, 1], "range": ["#d9534f", "#f7f3e8", "#2e9e5b"]},
    }
    tooltip = [{"field": "one"}, {"field": "other"}, share, {"field": "pairs", "type": "quantitative"}]
    return {
        "title": "Who agrees with whom: share of pairs ordered alike",
        "height": 34 * len({row["other"] for row in values}),
        "data": {"values": values},
        "encoding": {"x": x, "y": y},
        "layer": [
            {"mark": "rect", "encoding": {"color": color, "tooltip": tooltip}},
            {"mark": {"type": "text", "color": "#222"}, "encoding": {"text": share}},
        ],
    }
