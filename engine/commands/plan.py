"""`engine plan`: what a run would make, read, take and cost, before it is started."""

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from schemas import completion
from schemas.commands import RECIPE_ARGUMENT, output_options, settings_option
from schemas.loading import no_garbage
from schemas.recipe import Recipe, load
from schemas.screen import give, gives_document, say
from schemas.store import Store, open_store

if TYPE_CHECKING:
    from engine.planning.planner import Options, Plan

_NO_RUN = "a run that is not there"  # a folder of this name would be looked at, and nothing else be done


@click.command("plan")
@RECIPE_ARGUMENT
@click.option(
    "-o",
    "--output",
    "run",
    metavar="RUN",
    help="Run folder that goes on; without it a new run is planned.",
    shell_complete=completion.runs,
)
@settings_option()
@click.option(
    "--device", help="Device that the models run on, such as h100, a100, l40s; cpu measures here, as --probe."
)
@click.option("--devices", default=1, show_default=True, type=click.IntRange(1), help="How many of them.")
@click.option(
    "--price", type=click.FloatRange(0), metavar="AMOUNT", help="What one device costs for an hour."
)
@click.option(
    "--probe", is_flag=True, help="Load the models and measure here for half a minute: lengths and times."
)
@click.option(
    "--sample", default=2000, show_default=True, type=click.IntRange(1), help="Rows of the input to look at."
)
@output_options(lines_are_result=True)
def command(
    recipe: str,
    run: str | None,
    settings: tuple[str, ...],
    device: str | None,
    devices: int,
    price: float | None,
    probe: bool,
    sample: int,
) -> None:
    """Say what `engine precompute` would make of a RECIPE, and what it would take: rows, tokens, shards,
    bytes, model calls, time; what of a run folder is used again; which pairs each max_length would cut.

    No run folder is written or made; the digests of files are remembered in your cache, as every command does
    it, so the first plan of an input reads all of it. Without --probe no model is loaded and no GPU is
    needed; functions of [check] are not run, and no server is asked. With --device, what the recipe leaves to
    the machine is as on that device: dtype bfloat16, backend vllm.

    \b
    Example:
      engine plan dpo --set prompts.source=hh-harmless.jsonl.gz \\
          --set model.name=stories260K --device h100 --devices 8 --price 2.5
    """
    with no_garbage():
        from engine.planning.devices import device_named
        from engine.planning.planner import Options

    is_here = device is None or device == "cpu"
    options = Options(
        device=None if device is None or is_here else device_named(device),
        devices=devices,
        probe=probe or device == "cpu",
        price=price,
        rows=sample,
    )
    show(planned(run, load(recipe, settings), options), options)


def planned(where: str | Store | None, recipe: Recipe, options: "Options") -> "Plan":
    """The plan of a run folder, or of one that is not there yet."""
    with no_garbage():
        from engine.inputs import check_apart
        from engine.models.spec import for_another_machine
        from engine.plan import plan
        from engine.planning.elsewhere import for_device
        from engine.planning.planner import plan_of

    store = open_store(where if where is not None else _NO_RUN)
    check_apart(store, recipe)
    if options.device is None:
        return plan_of(plan(store, recipe, options.devices), options)
    there, taken = for_device(recipe, store, options.device)
    with for_another_machine():
        run = plan(store, there, options.devices)
    here = plan(store, recipe, options.devices) if options.probe else None
    return plan_of(run, options, here, taken)


def show(plan: "Plan", options: "Options") -> None:
    """Print a plan; as a document it is in bytes, seconds and rows."""
    from engine.planning import report

    give(lambda: _rounded(dataclasses.asdict(plan)))
    if gives_document():
        return
    for line in report.summary(plan, options):
        say(line)
    _table(report.stage_rows(plan))
    for line in report.remarks(plan, options):
        say(line)
    if plan.lengths:
        say(
            f"pairs looked at: {plan.lengths.pairs:,}; prompt and longer response have "
            f"{plan.lengths.median:,} tokens in the middle, {plan.lengths.longest:,} at most; "
            "what each logprobs.max_length would do to them:"
        )
        _table(report.length_rows(plan))


def _table(rows: list[dict[str, str]]) -> None:
    from schemas.summaries import as_summary

    say(as_summary(rows), is_styled=True)


def _rounded(value: Any) -> Any:
    """Values with three digits behind the point."""
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value
