"""The charts of training runs: a panel for each thing that was measured, the curves of all runs in it."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from schemas.charts import Chart, by_name, color_of, dash_of
from schemas.printable import one_line
from schemas.trainings.curves import Curve, Drawn, drawn

# Panel -> its title, in the order of the page; what all losses have in common comes first.
TITLES: Mapping[str, str] = {
    "accuracies": "rewards/accuracies: chosen above rejected",
    "margin": "margin: drift of chosen − drift of rejected, nat",
    "chosen": "drift of the chosen log-prob from the reference, nat",
    "rejected": "drift of the rejected log-prob from the reference, nat",
    "loss": "loss; those of different losses do not compare",
    "logps_chosen": "logps/chosen: log-prob of the chosen response, nat",
    "logps_rejected": "logps/rejected: log-prob of the rejected response, nat",
    "grad_norm": "grad_norm, before clipping",
    "tokens_per_second": "tokens a second, of all ranks",
    "memory": "memory, the most so far on rank 0, GiB",
}
_DIGITS = 5  # that a value keeps in a page
_LEGEND: Chart = {
    "orient": "bottom",
    "columns": 2,
    "labelLimit": 420,
    "symbolType": "stroke",
    "symbolOpacity": 1,
    "symbolStrokeWidth": 3,
}
_EACH_RUN: Chart = {"detail": {"field": "run"}}
_TOOLTIP = (
    {"field": "curve", "type": "nominal"},
    {"field": "step", "type": "quantitative"},
    {"field": "value", "type": "quantitative", "format": ".4g"},
)


def panels(curves: Sequence[Curve], *, with_legend: bool = False) -> dict[str, Chart]:
    """Panel -> its chart, for those panels of which something was measured.

    `with_legend`: below each chart; charts that stand in one picture share one."""
    charts: dict[str, Chart] = {}
    for panel, title in TITLES.items():
        rows: list[dict[str, Any]] = []
        for curve in curves:
            rows += _rows(one_line(curve.name), drawn(curve, panel))
        if rows:
            charts[panel] = _chart(title, curves, rows, _LEGEND if with_legend else None)
    return charts


def legend(curves: Sequence[Curve]) -> list[tuple[str, str]]:
    """The name and the colour of each curve."""
    return [(one_line(curve.name), color_of(number)) for number, curve in enumerate(curves)]


def _rows(name: str, lines: Drawn) -> list[dict[str, Any]]:
    """A panel's points of one curve, of the kinds logged, smooth and held_out."""
    rows: list[dict[str, Any]] = []
    for number, frame in enumerate(lines.logged):
        for step, value in frame.iter_rows():
            rows.append(
                {"kind": "logged", "curve": name, "run": number, "step": step, "value": _short(value)}
            )
    for kind, frame in (("smooth", lines.smooth), ("held_out", lines.held_out)):
        rows += _ranges(name, kind, frame)
    return rows


def _ranges(name: str, kind: str, frame: pl.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step, mean, low, high in frame.iter_rows():
        row = {"kind": kind, "curve": name, "step": step, "value": _short(mean)}
        if low != high:
            row |= {"low": _short(low), "high": _short(high)}
        rows.append(row)
    return rows


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _chart(
    title: str, curves: Sequence[Curve], rows: list[dict[str, Any]], shown_below: Chart | None
) -> Chart:
    """A faint line of what was logged, the smoothed line in its band, and points of the held-out pairs."""
    names = [name for name, _ in legend(curves)]
    colors = [color for _, color in legend(curves)]
    dashes = [dash_of(number) for number in range(len(curves))]
    x = {"field": "step", "type": "quantitative", "title": "step", "axis": {"tickMinStep": 1}}
    y = {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}}
    curve = {"field": "curve", "type": "nominal", "title": None, "legend": shown_below}
    color = curve | {"scale": by_name(names, colors)}
    dash = curve | {"scale": {"domain": names, "range": dashes}}
    line = {"x": x, "y": y, "color": color}
    span = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": color}
    point = {"type": "point", "filled": True, "size": 28, "opacity": 1}
    is_short = (
        len({row["step"] for row in rows if row["kind"] == "smooth"}) == 1
    )  # a line of one point is none
    layers = [
        ("smooth", {"type": "area", "opacity": 0.18}, span),
        ("logged", {"type": "line", "opacity": 0.25, "strokeWidth": 0.8}, line | _EACH_RUN),
        ("smooth", {"type": "line", "strokeWidth": 2, "point": is_short}, line | {"strokeDash": dash}),
        ("held_out", {"type": "line", "strokeWidth": 0.8, "strokeDash": [2, 2]}, line),
        ("held_out", {"type": "rule", "opacity": 0.5}, span),
        ("held_out", point, line | {"tooltip": list(_TOOLTIP)}),
    ]
    drawn = [_layer(kind, mark, encoding) for kind, mark, encoding in layers if _has(rows, kind, encoding)]
    return {"title": title, "height": 190, "data": {"values": rows}, "layer": drawn}


def _has(rows: Sequence[Mapping[str, Any]], kind: str, encoding: Chart) -> bool:
    """Whether there is something to draw: rows of the kind, and with their range where it is drawn."""
    field = encoding["y"]["field"]
    return any(row["kind"] == kind and field in row for row in rows)


def _layer(kind: str, mark: Chart, encoding: Chart) -> Chart:
    """Some of the rows, drawn in one way."""
    return {"transform": [{"filter": {"field": "kind", "equal": kind}}], "mark": mark, "encoding": encoding}
