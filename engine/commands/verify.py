"""`engine verify`: score a sample of the log-probs again, in other ways."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from schemas.commands import RUN, output_options, settings_option
from schemas.errors import UserError
from schemas.plans import read_plan
from schemas.recipe import load_of_run
from schemas.screen import give, say
from schemas.store import open_store

if TYPE_CHECKING:
    from engine.verify import Gap


@click.command("verify")
@RUN
@settings_option(
    "section.key=value, over the run's own recipe: verify.sample, verify.tolerance, train.dtype."
)
@click.option(
    "--both/--trainer-alone",
    default=True,
    show_default=True,
    help="Also by the other backend, where it is installed; or by the trainer's forward alone.",
)
@output_options()
def command(run: str, settings: tuple[str, ...], both: bool) -> None:
    """Score a sample of a RUN's log-probs again, in other ways, and fail where they differ.

    By the trainer's own forward, and by the other backend where it is installed. Every file's digest is taken
    anew; BOS, EOS and the border of prompt and response are counted. What was found lies in RUN/verify.json.

    \b
    Example:
      engine verify runs/hh
      engine verify runs/hh --set verify.sample=500 --set train.dtype=bfloat16
    """
    store = open_store(run)
    read_plan(store)  # says clearly where this is no run
    recipe = load_of_run(store, settings)

    from engine import verify

    report = verify.check(store, recipe, both, say)
    _print_gaps(report.gaps)
    record = store.where(verify.RECORD)
    problems = report.problems()
    give(
        lambda: dataclasses.asdict(report) | {"passed": not problems, "problems": problems, "record": record}
    )
    if problems:
        raise UserError(
            f"{store} does not pass: {'; '.join(problems)} (all of it in {record}); "
            "make the log-probs in the trainer's own way (logprobs.backend = hf, model.dtype = float32), "
            "or raise verify.tolerance if such a gap is what this dtype gives"
        )
    allowed = [f"{gap.mean:.2g} of {gap.tolerance:g} by {gap.way}" for gap in report.gaps]
    say(f"passed: mean gap, nat a token, of the tolerance: {', '.join(allowed)}; recorded in {record}")


def _print_gaps(gaps: Sequence["Gap"]) -> None:
    from schemas.summaries import as_summary

    rows: list[dict[str, object]] = []
    for gap in gaps:
        rows.append(
            {
                "cached against": gap.way,
                "tokens": gap.tokens,
                "mean": f"{gap.mean:.2g}",
                "p99": f"{gap.p99:.2g}",
                "max": f"{gap.max:.2g}",
                "mean exp|Δ|": f"{gap.multiplicative:.6f}",
            }
        )
    say(as_summary(rows), is_styled=True)
