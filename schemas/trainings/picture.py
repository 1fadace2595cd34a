"""Several training runs as one picture, a panel for each thing that was measured."""

from collections.abc import Sequence

from schemas import charts
from schemas.charts import Chart
from schemas.trainings.curves import curves
from schemas.trainings.panels import panels
from schemas.trainings.read import Trained

_COLUMNS = 2
_WIDTH = 440


def chart(runs: Sequence[Trained]) -> Chart:
    """All panels in one chart, with one legend."""
    drawn = panels(curves(runs), with_legend=True)
    return {"concat": [panel | {"width": _WIDTH} for panel in drawn.values()], "columns": _COLUMNS}


def picture(runs: Sequence[Trained], form: str) -> bytes:
    """The picture as "png" or "svg". The same runs give the same bytes."""
    drawn = chart(runs)
    return charts.png(drawn) if form == "png" else charts.svg(drawn).encode()
