"""Charts and tables of a run's data: lengths, scores, margins, judges, rewrites. Each is counted in SQL."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from engine import sql
from engine.cells import cell
from engine.ready import ready, text_of
from schemas.charts import CHOSEN, COLORS, NEUTRAL, REJECTED, Chart, by_name
from schemas.printable import one_line

_BINS = 40
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
_SCORES = """
    select responses.source as series, score as value from scores join responses using (response_id)
    where scorer = ?
"""
# Who says which of a pair is better: every scorer, the choice itself, and the reference.
_AGREEMENT = """
    with said as (
        select pair_id, scorer, sign(chosen_scores[scorer] - rejected_scores[scorer]) as better
        from (select *, unnest(map_keys(chosen_scores)) as scorer from pairs)
        union all select pair_id, 'chosen', 1 from pairs
        union all select pair_id, 'reference', sign(ref_chosen_logps - ref_rejected_logps) from pairs
    ), known as (select * from said where better is not null)
    select a.scorer as one, b.scorer as other, count(*) as pairs,
           avg(case when a.better = b.better then 1
                    when 0 in (a.better, b.better) then 0.5 else 0 end) as share
    from known a join known b using (pair_id)
    group by all order by all
"""
# Ready queries that are shown as they are, by the part of the page.
DATA_TABLES = ("overview", "sources", "rewrites", "length_bias")
JUDGE_TABLES = ("judge_bias", "judge_and_truth")
REJECT_TABLES = ("rejects",)


def tables(con: duckdb.DuckDBPyConnection, names: Sequence[str]) -> list[Table]:
    """The answers of ready queries; those without a row are left out."""
    found: list[Table] = []
    known = ready()
    for name in names:
        if name not in known:
            continue
        with sql.ctrl_c():
            answer = con.sql(text_of(name)).to_arrow_table()
        rows = [_texts(row) for row in answer.to_pylist()]
        if rows:
            found.append(Table(name, known[name].what, answer.column_names, rows))
    return found


def _texts(row: dict[str, Any]) -> list[str]:
    """A row's values as the page shows them."""
    return ["–" if value is None else cell(value, 200) for value in row.values()]


def charts(con: duckdb.DuckDBPyConnection) -> dict[str, Chart]:
    """Name -> chart, for those that have something to show."""
    found: dict[str, Chart] = {}
    for histogram in _HISTOGRAMS:
        rows = _bins(con, histogram.query, [], histogram.are_whole)
        if rows:
            found[histogram.name] = _histogram_chart(histogram.title, histogram.axis, rows, histogram.colors)
    for scorer in _scorers(con):
        rows = _bins(con, _SCORES, [scorer], are_whole=False)
        if rows:
            title = f"Scores by {one_line(scorer)}, of all responses"
            found[f"scores {one_line(scorer)}"] = _histogram_chart(title, "score", rows, {})
    agreement = _rows(con, _AGREEMENT)
    if agreement:
        found["agreement"] = _agreement_chart(agreement)
    return found


def _scorers(con: duckdb.DuckDBPyConnection) -> list[str]:
    query = "select scorer from scores where score is not null group by scorer order by count(*) desc, scorer"
    return [row["scorer"] for row in _rows(con, f"{query} limit {_MOST_SERIES}")]


def _rows(con: duckdb.DuckDBPyConnection, query: str, *values: object) -> list[dict[str, Any]]:
    with sql.ctrl_c():
        rows: list[dict[str, Any]] = con.sql(query, params=list(values)).to_arrow_table().to_pylist()
    return rows


def _bins(
    con: duckdb.DuckDBPyConnection, query: str, values: list[object], are_whole: bool
) -> list[dict[str, Any]]:
    """Rows of series, low, high and count. What lies far outside is counted in the first and last bin."""
    finite = f"select series, value from ({query}) where isfinite(value::double)"
    ends = "quantile_cont(value, 0.002) as low, quantile_cont(value, 0.998) as high"
    (span,) = _rows(con, f"select {ends} from ({finite})", *values)
    low, high = span["low"], span["high"]
    if low is None:
        return []
    width = (high - low) / _BINS or 1.0
    if are_whole:
        low, width = float(int(low)), float(max(1, math.ceil(width)))
    place = f"least(greatest(floor((value - {low!r}) / {width!r}), 0), {_BINS})"
    counted = f"select coalesce(series, '') as series, {place} as bin, count(*) as count from ({finite})"
    rows = _rows(con, f"{counted} group by all order by all", *values)
    for row in rows:
        bin = row.pop("bin")
        row["series"] = one_line(row["series"])
        row["low"] = _short(low + bin * width)
        row["high"] = _short(low + (bin + 1) * width)
    return rows


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _histogram_chart(title: str, axis: str, rows: list[dict[str, Any]], colors: dict[str, str]) -> Chart:
    """Bars side by side over each other, half transparent."""
    names = [name for name in colors] or sorted({row["series"] for row in rows})
    palette = [colors.get(name, COLORS[place % len(COLORS)]) for place, name in enumerate(names)]
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
