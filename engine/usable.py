"""How much of what a stage made can be used, and whether its first shard is worth the others.

A judge that gives no mark or a rewriter whose rewrites cannot serve makes rows, and none that can be used. To
go on with the next shards would cost a night for nothing.
"""

from collections.abc import Mapping

from engine.excerpts import counted
from engine.plan import Run
from engine.stage import Made, Stage
from schemas.errors import NothingMade
from schemas.manifest import read_markers, rows_by_table

# What a stage counts of its rows that are there and cannot be used; in between those whose names begin so.
_UNUSABLE = ("unscored", "fallback_")
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
    if usable(rows, made.counts) or not total or (total < _FEW_ROWS and run.shards > 1):
        return
    for marker in read_markers(run.folder(stage)):
        if usable(rows_by_table(marker), marker.counts):
            return
    why = stage.explain(made.tables, run.config(stage))
    rejects = made.tables.get("rejects")
    if rejects is not None and len(rejects):
        why = f"{counted(rejects['reason'])} refused, such as: {rejects['detail'][0].as_py()}. Else {why}"
    raise NothingMade(
        f"[{stage.name}] stopped at its first shard, of whose {total:,} rows none can be used: {why}"
    )
