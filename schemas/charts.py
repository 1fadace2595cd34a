"""Charts, as Vega-Lite describes them: what ours have in common, as pictures and in pages.

A chart is a dict, a specification in Vega-Lite's own words (https://vega.github.io/vega-lite/docs/). The
library vl-convert brings Vega and Vega-Lite, draws pictures without a browser, and gives the script that
draws the same charts in a page.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

Chart = dict[str, Any]

# Told apart on white and on black, and by most who see colours otherwise (Tableau 10).
COLORS = (
    "#4c78a8",
    "#f58518",
    "#54a24b",
    "#e45756",
    "#72b7b2",
    "#b279a2",
    "#eeca3b",
    "#ff9da6",
    "#9d755d",
    "#79706e",
)
CHOSEN = "#2e9e5b"
REJECTED = "#d9534f"
NEUTRAL = "#4c78a8"
_VEGA_LITE = "6.4"
_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_CONFIG: Mapping[str, Any] = {
    "font": "sans-serif",
    "view": {"stroke": None},
    "title": {"anchor": "start", "fontSize": 13, "fontWeight": 600},
    "axis": {"gridOpacity": 0.5, "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal"},
    "legend": {"labelLimit": 600, "labelFontSize": 12},
}
_PIXELS = 1.6  # of a picture, for each of a page's


def color_of(number: int) -> str:
    """The colours in turn."""
    return COLORS[number % len(COLORS)]


def dash_of(number: int) -> list[int]:
    """How the line of a curve is dashed: not at all, until the colours are used up."""
    dashes: tuple[list[int], ...] = ([], [6, 3], [2, 2])
    return dashes[number // len(COLORS) % len(dashes)]


def by_name(names: Sequence[str], colors: Sequence[str]) -> Chart:
    """A scale that gives each name its colour."""
    return {"domain": list(names), "range": list(colors)}


def png(chart: Chart) -> bytes:
    """A chart as a PNG on white. The same chart gives the same bytes."""
    import vl_convert

    whole = {"$schema": _SCHEMA, "background": "white", "padding": 12, "config": dict(_CONFIG), **chart}
    drawn: bytes = vl_convert.vegalite_to_png(whole, vl_version=_VEGA_LITE, scale=_PIXELS)
    return drawn


def svg(chart: Chart) -> str:
    """A chart as an SVG."""
    import vl_convert

    whole = {"$schema": _SCHEMA, "background": "white", "padding": 12, "config": dict(_CONFIG), **chart}
    drawn: str = vl_convert.vegalite_to_svg(whole, vl_version=_VEGA_LITE)
    return drawn


def for_page(chart: Chart) -> Chart:
    """A chart for a page: as wide as the place that it stands in, in the page's own colours."""
    return {
        "$schema": _SCHEMA,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "background": None,
        "description": chart.get("title", ""),  # for whoever has the page read out
        "config": dict(_CONFIG),
        **chart,
    }


@functools.cache
def script() -> str:
    """The script that draws charts in a page: it gives the page a function vegaEmbed."""
    import vl_convert

    # Its types say that a snippet is wanted; without one the bundle offers vegaEmbed by itself.
    bundle: str = vl_convert.javascript_bundle(None, _VEGA_LITE)  # type: ignore[arg-type]
    # In a block, so that its many short names are not the page's.
    return "{" + bundle + "}"
