"""What `engine precompute` and `engine status` do and show: the plan, the shards on their way, the totals."""

import sys
import threading
import time
from collections import Counter
from pathlib import Path

import click
import polars as pl
from tqdm import tqdm

from engine.executors import local
from engine.stage import Run, current, finish, finished, lay, missing, opened, plan, what_changed
from schemas.errors import UserError
from schemas.manifest import Marker, Planned, read_marker, read_markers, read_plan
from schemas.recipe import Recipe

_LINE_SECONDS = 10  # between two lines where the output is no terminal


class Progress:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, what: str, total: int | None, unit: str):
        self._what, self._total, self._unit, self._done, self._extra = what, total, unit, 0, ""
        self._last = time.monotonic()
        self._bar = (
            tqdm(total=total, desc=what, unit=f" {unit}", dynamic_ncols=True, leave=False)
            if sys.stderr.isatty()
            else None
        )

    def advance(self, count: int = 1) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        self._line()

    def extra(self, text: str) -> None:
        self._extra = text
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        self._line()

    def _line(self) -> None:
        if self._bar is None and time.monotonic() - self._last > _LINE_SECONDS:
            self._last = time.monotonic()
            of = f"/{self._total}" if self._total else ""
            click.echo(f"{self._what}: {self._done:,}{of} {self._unit} {self._extra}".rstrip(), err=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def precompute(path: Path, recipe: Recipe, workers: int) -> None:
    """Makes what is missing of a recipe's stages; see the command's help."""
    run = plan(path, recipe)
    with opened(run):
        gaps = missing(run)
        if gaps:
            _announce(run)
            _make(run, gaps, workers)
        manifests = finish(run) if gaps else finished(run)
    if not gaps:
        click.echo(f"{path}: nothing to do, all {run.shards} shards of {len(run.stages)} stages are there")
    _totals(run, manifests)


def _announce(run: Run) -> None:
    for phase in local.phases(run):
        if phase.use:
            names = ", ".join(stage.name for stage in phase.stages if stage.uses)
            click.echo(
                f"{names}: {phase.use.config.name} on {'vLLM' if phase.use.backend == 'vllm' else 'transformers'}, {phase.use.config.dtype}"
            )
    for stage in run.stages:
        folder = run.folder(stage)
        have = len(list(folder.glob("[0-9]*.json")))
        click.echo(
            f"{folder.name}: {have} of {run.shards} shards there"
            if have
            else f"{folder.name}: to make, {run.shards} shard{'s' * (run.shards > 1)}"
        )
        for other, changes in what_changed(run, stage) if not have else []:
            click.echo(f"  not {other}: {'; '.join(changes)}")


def _make(run: Run, gaps: dict, workers: int) -> None:
    for stages in gaps.values():
        for stage in stages:
            (run.folder(stage) / "manifest.json").unlink(missing_ok=True)
    scanned = {shard for shard, stages in gaps.items() if run.stages[0] in stages}
    if scanned:
        progress = Progress("reading", None, "rows")
        try:
            lay(run, scanned, progress.advance)
        finally:
            progress.close()
    progress, responses, lock = (
        Progress("making", sum(map(len, gaps.values())), "shards"),
        0,
        threading.Lock(),
    )

    def report(kind: str, value) -> None:
        nonlocal responses
        with lock:  # several shards may be under way in threads
            if kind == "shard":
                progress.advance()
            else:
                responses += value
            progress.extra(f"{responses:,} responses" if responses else "")

    try:
        local.execute(run, gaps, workers, report)
    finally:
        progress.close()


def _totals(run: Run, manifests: dict[str, dict]) -> None:
    for stage in run.stages:
        manifest = manifests[stage.name]
        rows = ", ".join(
            f"{count:,} {table}" for table, count in sorted(manifest["rows"].items()) if table != "rejects"
        )
        click.echo(f"{run.planned[stage.name].folder}: {rows or 'no rows'}{_counts(manifest['counts'])}")
    first = manifests[run.stages[0].name]["counts"]
    rows_in, out, rejects, duplicates = (
        first.get(name, 0) for name in ("rows_in", "rows_out", "rejects", "duplicates")
    )
    click.echo(f"rows in {rows_in:,} = rows out {out:,} + rejects {rejects:,} + duplicates {duplicates:,}")
    assert rows_in == out + rejects + duplicates, "a row was lost"
    if any(manifest["counts"].get("rejects") for manifest in manifests.values()):
        click.echo(
            f'what was refused, and why: engine sql {run.path} "select stage, reason, file, line, detail from rejects"'
        )


def _counts(counts: dict[str, int]) -> str:
    names = ["train", "test", "rewritten", "unscored", "disagreed", "unfinished", "truncated"]
    names += sorted(name for name in counts if name.startswith(("skipped_", "fallback_")))
    shown = [
        f"{name.replace('_', ' ')} {counts[name]:,}"
        for name in [*names, "rejects", "repeated", "duplicates"]
        if counts.get(name)
    ]
    return f" ({', '.join(shown)})" if shown else ""


def status(path: Path, recipe: Recipe) -> None:
    """Prints a table of the stages, the rejects by reason, and for each folder that no longer matches why."""
    try:
        run = plan(path, recipe)
    except UserError as error:
        # The input or the model may be gone for good: what was made of them is still there.
        _table(path, *read_plan(path))
        click.echo(f"whether this is still what the recipe asks for cannot be said: {error}")
    else:
        _table(path, list(run.planned.values()), run.shards)
        _differences(run)
    _rejects(path)


def _table(path: Path, planned: list[Planned], shards: int) -> None:
    rows = []
    for stage in planned:
        markers = read_markers(path / stage.folder) if (path / stage.folder).exists() else []
        tables = Counter()
        for marker in markers:
            tables.update({file.table: file.rows for file in marker.files})
        held = ", ".join(f"{count:,} {table}" for table, count in sorted(tables.items()))
        rows.append(
            {"folder": stage.folder, "shards": f"{len(markers)}/{shards}", "rows": held or "none yet"}
        )
    with pl.Config(
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        fmt_str_lengths=200,
        tbl_width_chars=200,
        tbl_rows=-1,
    ):
        click.echo(pl.DataFrame(rows))


def _differences(run: Run) -> None:
    """Says which folders and shards are not what the recipe asks for, and why."""
    if stale := _stale(run):
        click.echo(
            f"{stale} shards were made from shards that are not there any more: `engine precompute` makes them again"
        )
    for stage in run.stages:
        for other, changes in what_changed(run, stage):
            click.echo(f"{other} is not what the recipe asks for: {'; '.join(changes)}")


def _stale(run: Run) -> int:
    """Shards whose marker names other shards above than those there now."""
    stale = 0
    for shard in range(run.shards):
        digests: dict[str, str] = {}
        for stage in run.stages:
            marker: Marker | None = read_marker(run.folder(stage), shard)
            if marker is None:
                break
            made_from = {other.name: digests.get(other.name, "") for other in run.above(stage)}
            stale += current(run, stage, shard, made_from) is None
            digests[stage.name] = marker.digest
    return stale


def _rejects(path: Path) -> None:
    import duckdb

    from engine import sql

    with duckdb.connect() as con:
        con.register("rejects", sql.views(path)["rejects"])
        found = con.sql("select stage, reason, count(*) from rejects group by all order by all").fetchall()
    for stage, reason, count in found:
        click.echo(f"rejects: {count:,} {reason} in {stage}")
