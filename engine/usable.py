"""How much of what a stage made can be used, and whether its first shard is worth the others.

A judge that gives no mark or a rewriter whose rewrites cannot serve makes rows, and none that can be used. To
go on with the next shards would cost a night for nothing.
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from engine.excerpts import counted
from engine.plan import Run
from engine.stage import Made, Stage
from schemas.errors import NothingMade
from schemas.manifest import marker_names, read_markers, rows_by_table

# What a stage counts of its rows that are there and cannot be used; in between those whose names begin so.
_UNUSABLE = ("unscored", "fallback_")
# The column that is null where the model was not asked or did not answer.
_SAID = {"scores": "mass", "responses": "finish_reason"}
# So few rows may all be unlucky.
_FEW_ROWS = 8


def usable(rows: Mapping[str, int], counts: Mapping[str, int]) -> int:
    """How many rows can be used: those of all tables but `rejects`, less those counted as unusable."""
    made = sum(count for table, count in rows.items() if table != "rejects")
    unusable = sum(count for name, count in counts.items() if name.startswith(_UNUSABLE))
    return made - unusable


def check_shard(run: Run, stage: Stage, made: Made) -> None:
    """Raise NothingMade where a stage made rows of a shard and can use none, and of no other shard either."""
    if stage.explain is None:
        return
    rows = {name: len(table) for name, table in made.tables.items() if name != "rejects"}
    total = sum(rows.values())
    if usable(rows, made.counts):
        _check_scorers(run, stage, made)
        return
    if not total or (total < _FEW_ROWS and run.shards > 1):
        return
    for marker in read_markers(run.folder(stage)):
        if usable(rows_by_table(marker), marker.counts):
            return
    raise NothingMade(
        f"[{stage.name}] stopped at its first shard, of whose {total:,} rows none can be used: "
        f"{_why(run, stage, made.tables)}"
    )


def _check_scorers(run: Run, stage: Stage, made: Made) -> None:
    """Raise NothingMade where one of several scorers gave no score in a stage's first shard."""
    scores = made.tables.get("scores")
    if scores is None or marker_names(run.folder(stage)):
        return
    for scorer in scores["scorer"].unique().to_pylist():
        own = scores.filter(pc.equal(scores["scorer"], scorer))
        if len(own) < _FEW_ROWS or own["score"].null_count < len(own):
            continue
        why = _why(run, stage, made.tables | {"scores": own})
        raise NothingMade(
            f"[{stage.name}] stopped at its first shard, of whose {len(own):,} scores by {scorer} none can "
            f"be used: {why}"
        )


def _why(run: Run, stage: Stage, tables: Mapping[str, pa.Table]) -> str:
    """Why no row of these tables can be used."""
    assert stage.explain is not None
    rejects = tables.get("rejects")
    if rejects is None or not len(rejects):
        return stage.explain(tables, run.config(stage))
    refused = f"{counted(rejects['reason'])} refused, such as: {rejects['detail'][0].as_py()}"
    if stage.endpoint is not None and _has_no_answer(tables):
        return refused  # there is no answer of the model to speak of
    return f"{refused}. Else {stage.explain(tables, run.config(stage))}"


def _has_no_answer(tables: Mapping[str, pa.Table]) -> bool:
    """True if the model said nothing of any row: all were refused."""
    for name, column in _SAID.items():
        if name in tables and tables[name][column].null_count < len(tables[name]):
            return False
    return True
