"""The page as HTML: everything is escaped, scripts and style stand in it, and nothing else is let in."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from engine.report.figures import Table
from engine.report.made import Made
from engine.report.packing import packed
from engine.report.sample import Sample
from engine.report.trainings import Trainings
from schemas import charts
from schemas.charts import COLORS, Chart, dash_of
from schemas.versions import of_prefmill

_FILES = "engine.report"
_ENVIRONMENT = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_JUDGES = ("scores ", "agreement", "margins", "ref_margins")


@dataclass(frozen=True)
class Content:
    """All that the page shows. `why_no_tokens`: a sentence where there is no tokenizer, else empty."""

    title: str
    summary: str
    tiles: Sequence[tuple[str, str]]
    made: Made
    sample: Sample
    why_no_tokens: str
    charts: dict[str, Chart]
    data_tables: Sequence[Table]
    judge_tables: Sequence[Table]
    reject_tables: Sequence[Table]
    beside_tables: Sequence[Table]
    trainings: Trainings
    recipe: str
    remarks: Sequence[str]


def html(content: Content) -> str:
    """The page, whole."""
    style = _file("report.css") + _stroke_colors()
    chart_script = charts.script()
    script = _file("report.js")
    drawn = content.charts | content.trainings.charts
    judge_charts = [name for name in content.charts if name.startswith(_JUDGES)]
    return _ENVIRONMENT.from_string(_file("report.html.jinja")).render(
        **vars(content),
        policy=_policy([chart_script, script], style),
        style=Markup(style),
        script=Markup(script),
        chart_script=Markup(chart_script),
        charts_data=packed(_json({name: charts.for_page(chart) for name, chart in drawn.items()})),
        parts=_parts(content, judge_charts),
        has_tokens=not content.why_no_tokens,
        legend=_legend(content.trainings),
        data_charts=[name for name in content.charts if name not in judge_charts],
        judge_charts=judge_charts,
        version=of_prefmill(),
    )


def _file(name: str) -> str:
    return resources.files(_FILES).joinpath("web", name).read_text(encoding="utf-8")


def _parts(content: Content, judge_charts: Sequence[str]) -> list[tuple[str, str]]:
    """The parts that the page has, by their ids."""
    parts = [("pairs", "Pairs")]
    if content.trainings.rows:
        parts.append(("training", "Training"))
    parts.append(("data", "Data"))
    if judge_charts or content.judge_tables:
        parts.append(("judges", "Judges"))
    if content.beside_tables:
        parts.append(("beside", "Beside the run"))
    return [*parts, ("made", "What was made from what")]


def _legend(trainings: Trainings) -> list[tuple[str, int, str]]:
    """The name of each curve, the number of its colour, and how its line is dashed."""
    entries: list[tuple[str, int, str]] = []
    for number, name in enumerate(trainings.legend):
        dashes = " ".join(map(str, dash_of(number)))
        entries.append((name, number % len(COLORS), dashes))
    return entries


def _stroke_colors() -> str:
    """The colours of curves, for the legend."""
    return "".join(f".stroke{number} {{ stroke: {color}; }}\n" for number, color in enumerate(COLORS))


def _policy(scripts: Sequence[str], style: str) -> str:
    """The page's Content-Security-Policy: these very scripts and this style, and nothing from anywhere."""
    allowed = " ".join(_hashed(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hashed(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hashed(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
