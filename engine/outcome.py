"""What came of a run: nothing made is not success.

The stages are looked at in their order; the first that made nothing it could use is where all was lost, and
its rejects and counts say why.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from engine.excerpts import counted
from engine.make import read_file
from engine.plan import Run
from engine.stage import Stage
from engine.usable import usable
from schemas.errors import NothingMade
from schemas.manifest import read_markers
from schemas.tables import TABLES

_RESPONSES = "responses"
_SKIPPED = "skipped_"
_UNFINISHED = "skipped_unfinished"


def check(run: Run, manifests: Mapping[str, dict[str, Any]]) -> None:
    """Raise NothingMade where a stage made nothing that can be used out of something.

    A section that brings no responses is fine where another makes some."""
    responses = sum(manifest["rows"].get(_RESPONSES, 0) for manifest in manifests.values())
    for stage in run.stages:
        manifest = manifests[stage.name]
        if usable(manifest["rows"], manifest["counts"]):
            continue
        if stage.writes[0] == _RESPONSES and stage.explain is None and responses:
            continue
        raise NothingMade(f"nothing was made: {_why(run, stage, manifest)}")


def _why(run: Run, stage: Stage, manifest: dict[str, Any]) -> str:
    """Where everything was lost, and by what."""
    counts: Mapping[str, int] = manifest["counts"]
    if stage.scan and not counts.get("rows_in"):
        return "the input has no rows; look at prompts.source"
    name = f"[{stage.name}]"
    reasons: list[str] = []
    example = ""
    rejects = _rows(run, stage, "rejects")
    if len(rejects):
        reasons.append(counted(rejects["reason"]))
        example = f", such as {_place(rejects)}: {rejects['detail'][0].as_py()}"
    for count_name, count in counts.items():
        if count_name.startswith(_SKIPPED):
            reasons.append(f"{count_name.removeprefix(_SKIPPED)} {count:,}")
    if reasons:
        return f"{name} left everything out ({', '.join(reasons)}){example}"
    if stage.explain is not None and sum(manifest["rows"].values()):
        tables = {table: _rows(run, stage, table) for table in stage.writes}
        return f"no row of {name} can be used: {stage.explain(tables, run.config(stage))}"
    unscored = counts.get("unscored")
    if unscored:
        return f"{name} made {unscored:,} rows and not one of them has a score"
    return f"{name} made no rows of what the sections above it made"


def unfinished_text(stage: Stage, counts: Mapping[str, int]) -> str | None:
    """How many responses a choice did not see, and how it would; None where it saw all."""
    unfinished = counts.get(_UNFINISHED)
    if not unfinished:
        return None
    return (
        f"[{stage.name}] chose among finished responses: {unfinished:,} that were cut off are left out; more "
        f'generate.max_tokens finishes them, {stage.name}.unfinished = "keep" lets them in'
    )


def rejects_text(run: Run, stage: Stage) -> str | None:
    """How many rows a stage refused, by reason, and the first of them; None where it refused none."""
    reasons, example = refused(run, stage)
    if not reasons:
        return None
    by_reason = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
    return f"{by_reason}; such as {example}"


def refused(run: Run, stage: Stage) -> tuple[Counter[str], str]:
    """How many rows a stage refused, by reason; and where the first of them came from, with what is wrong."""
    reasons: Counter[str] = Counter()
    example = ""
    folder = run.folder(stage)
    for marker in read_markers(folder):
        for file in marker.files:
            rejects = read_file(folder, file) if file.table == "rejects" and file.rows else None
            if rejects is not None:
                reasons.update(rejects["reason"].to_pylist())
                example = example or f"{_place(rejects)}: {rejects['detail'][0].as_py()}"
    return reasons, example


def _rows(run: Run, stage: Stage, table: str) -> pa.Table:
    """All rows of a table that a stage made."""
    folder = run.folder(stage)
    parts = [TABLES[table].empty_table()]
    for marker in read_markers(folder):
        for file in marker.files:
            if file.table == table:
                parts.append(read_file(folder, file))
    return pa.concat_tables(parts)


def _place(rejects: pa.Table) -> str:
    """Where the first reject came from."""
    file = rejects["file"][0].as_py()
    line = rejects["line"][0].as_py()
    if file is None:
        return "the first"
    return f"{file} line {line}"
