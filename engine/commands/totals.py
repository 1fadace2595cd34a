"""What `engine precompute` says at its end: how many rows there are, what was counted, what was refused."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from schemas.screen import say, warn

if TYPE_CHECKING:
    from engine.plan import Run

# The counts of a stage that are shown, in this order; in between those whose names begin so.
_COUNTS_FIRST = (
    "train",
    "test",
    "rewritten",
    "unscored",
    "low_mass",
    "disagreed",
    "unfinished",
    "with_unfinished",
    "truncated",
    "holding_special_tokens",
)
_COUNT_PREFIXES = ("skipped_", "fallback_")
_COUNTS_LAST = (
    "held_out",
    "held_out_though_also_in_train",
    "references_that_differ",
    "ratings_tie",
    "ratings_contradict",
    "asked_again_one_by_one",
    "rejects",
    "repeated",
    "duplicates",
)


def print_totals(run: "Run", manifests: Mapping[str, dict[str, Any]]) -> None:
    """What each stage's manifest sums up, and that no row is lost on the way."""
    for stage in run.stages:
        manifest = manifests[stage.name]
        tables = sorted(name for name in manifest["rows"] if name != "rejects")
        rows = ", ".join(f"{manifest['rows'][name]:,} {name}" for name in tables)
        say(f"{run.folder(stage).name}: {rows or 'no rows'}{_counts_text(manifest['counts'])}")
    counts = manifests[run.stages[0].name]["counts"]
    rows_in = counts.get("rows_in", 0)
    rows_out = counts.get("rows_out", 0)
    rejects = counts.get("rejects", 0)
    duplicates = counts.get("duplicates", 0)
    say(f"rows in {rows_in:,} = rows out {rows_out:,} + rejects {rejects:,} + duplicates {duplicates:,}")
    _print_rejects(run, manifests)
    if 2 * rejects > rows_in:
        warn(f"warning: {rejects:,} of {rows_in:,} rows were refused, more than half")


def _print_rejects(run: "Run", manifests: Mapping[str, dict[str, Any]]) -> None:
    """Why stages refused rows, and how to see them all; what a choice did not see."""
    from engine import outcome

    for stage in run.stages:
        unfinished = outcome.unfinished_text(stage, manifests[stage.name]["counts"])
        if unfinished:
            say(unfinished)
    with_rejects = [stage for stage in run.stages if manifests[stage.name]["counts"].get("rejects")]
    for stage in with_rejects:
        say(f"refused by [{stage.name}]: {outcome.rejects_text(run, stage)}")
    if with_rejects:
        query = "select stage, reason, file, line, detail from rejects"
        say(f'what was refused, and why: engine sql {shlex.quote(str(run.store))} "{query}"')


def _counts_text(counts: Mapping[str, int]) -> str:
    """What a stage counted, in brackets; empty where it counted nothing."""
    by_reason = sorted(name for name in counts if name.startswith(_COUNT_PREFIXES))
    names = [*_COUNTS_FIRST, *by_reason, *_COUNTS_LAST]
    shown = [f"{name.replace('_', ' ')} {counts[name]:,}" for name in names if counts.get(name)]
    if counts.get("masses"):
        mean_mass = counts.get("mass_in_thousandths", 0) / counts["masses"] / 1000
        shown.append(f"mean mass {mean_mass:.2f}")
    return f" ({', '.join(shown)})" if shown else ""
