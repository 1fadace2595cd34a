"""The results as a run folder: the test problems as its prompts, and tables of ours beside them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from engine.commands.precompute import precompute
from engine.tables_beside import write_beside
from engine.views import views
from pipelines.evidence.caches import problems
from pipelines.evidence.results import Results
from pipelines.evidence.search import Search
from pipelines.evidence.setting import RECIPE, TEST_SEED, Setting
from pipelines.evidence.verdicts import Verdict
from schemas.recipe import Recipe, load
from schemas.store import open_store


def make_run(out: Path, setting: Setting) -> None:
    """The run folder: the test problems, as the engine reads them."""
    source = out / "test_problems.jsonl"
    lines = [json.dumps({"prompt": prompt}) + "\n" for prompt in problems(TEST_SEED, setting.test_problems)]
    if not source.exists() or source.read_text() != "".join(lines):
        source.write_text("".join(lines))
    recipe = load(RECIPE, [f"prompts.source={source}"])
    only = {name: recipe.sections[name] for name in ("model", "prompts")}
    precompute(out, Recipe(only, recipe.seed), workers=1)


def write(out: Path, claim: str, results: Results, search: Search, verdicts: Sequence[Verdict]) -> None:
    """Put a claim's tables beside the run's: samples, margins, trainings, searched, verdicts."""
    ids = _prompt_ids(out)
    prompt_id = pl.col("problem").replace_strict(ids, default=None).alias("prompt_id")
    tables = {
        "samples": results.samples.with_columns(prompt_id).drop("problem"),
        "margins": results.margins.with_columns(prompt_id).drop("problem"),
        "trainings": results.trainings,
        "searched": search.table,
        "verdicts": of_verdicts(verdicts),
    }
    put(out, claim, tables)


def of_verdicts(verdicts: Sequence[Verdict]) -> pl.DataFrame:
    """The rows of the table `verdicts`, but for the column that names the claim."""
    return pl.DataFrame([verdict.row() for verdict in verdicts], infer_schema_length=None).drop("claim")


def put(out: Path, claim: str, tables: Mapping[str, pl.DataFrame]) -> None:
    """Put a claim's rows into tables beside the run's; the rows of other claims stay."""
    for name, rows in tables.items():
        own = rows.select(pl.lit(claim).alias("claim"), pl.all())
        path = out / "tables" / f"{name}.parquet"
        if path.exists():
            others = pl.read_parquet(path).filter(pl.col("claim") != claim)
            own = pl.concat([others, own], how="diagonal_relaxed").sort("claim", maintain_order=True)
        write_beside(open_store(out), name, own.to_arrow())


def _prompt_ids(out: Path) -> dict[int, str]:
    """Number of a test problem -> its id in the table prompts."""
    rows = views(open_store(out))["prompts"].to_table(["prompt_id", "line"]).to_pylist()
    return {row["line"] - 1: row["prompt_id"] for row in rows}
