"""A plan in words and tables."""

from collections.abc import Iterator, Mapping

from engine.planning.planner import Options, Plan
from engine.planning.timing import StageTime
from engine.planning.whole import WholeStage
from schemas.amounts import duration

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def summary(plan: Plan, options: Options) -> Iterator[str]:
    """What is said above the table of the stages."""
    looked = f"all {plan.sample_rows:,} of them"
    if not plan.is_whole:
        looked = f"by {plan.sample_rows:,} of them, drawn over all of the input"
    through = f"; {plan.prompts:,} prompts went through all stages" if len(plan.stages) > 1 else ""
    yield f"input: {number(plan.rows)} rows, {number(plan.unique_prompts)} prompts ({looked}{through})"
    first = plan.stages[0]
    yield (
        f"rows in {number(plan.rows)} = rows out {number(first.counts.get('rows_out', 0))} + rejects "
        f"{number(sum(first.rejects.values()))} + duplicates {number(first.counts.get('duplicates', 0))}"
    )
    if plan.time.reading >= 1:
        by = f"{plan.readers} processes" if plan.readers > 1 else "one process"
        yield f"reading them takes {by} {duration(plan.time.reading)}, as this machine does it"
    yield f"shards: {plan.shards:,}, about {number(plan.unique_prompts / plan.shards)} prompts each"


def stage_rows(plan: Plan) -> list[dict[str, str]]:
    """The table of the stages."""
    rows: list[dict[str, str]] = []
    for stage, timed in zip(plan.stages, plan.time.stages, strict=True):
        made = [
            f"{number(size.rows)} {name}, {bytes_text(size.bytes)}"
            for name, size in sorted(stage.tables.items())
        ]
        rows.append(
            {
                "stage": stage.name,
                "shards there": f"{stage.there:,}/{plan.shards:,}",
                "rows in": number(stage.rows_in),
                "makes": "\n".join(made) or "no rows",
                "asks": _asks(stage),
                "time of a worker": _time(timed),
            }
        )
    return rows


def _asks(stage: WholeStage) -> str:
    """What a stage asks of its model."""
    asked = stage.asked
    if not asked.calls:
        return ""
    lines: list[str] = []
    if asked.generated:
        lines.append(f"{number(asked.generated)} samples")
        lines.append(f"{number(asked.generate_prompt_tokens)} tokens in")
        at_most = "at most " if stage.said == "bound" else ""
        lines.append(f"{at_most}{number(asked.sampled_tokens)} tokens out")
    if asked.scored:
        scored = f"{number(asked.scored)} responses"
        if stage.name == "judge":
            # A row of its scores is a question: of a comparison's two rows one is asked in each order.
            scored = f"{number(stage.tables['scores'].rows)} questions"
        shared = asked.unshared_tokens if stage.backend == "vllm" else asked.scored_tokens
        lines.append(scored)
        lines.append("tokens not known" if stage.said == "uncounted" else f"{number(shared)} tokens read")
    return "\n".join(lines)


def _time(timed: StageTime) -> str:
    if timed.model is None:
        return "not known"
    seconds = timed.model + timed.own
    return duration(seconds) if seconds >= 1 else "under 1 s"


def remarks(plan: Plan, options: Options) -> Iterator[str]:
    """What is said below the table."""
    together = sum(size.bytes for stage in plan.stages for size in stage.tables.values())
    yield f"all tables: {bytes_text(together)}"
    yield from _refused(plan)
    yield from _lengths_said(plan)
    yield from _reuse(plan)
    yield from _memory(plan, options)
    yield from _duration(plan, options)


def _refused(plan: Plan) -> Iterator[str]:
    for stage in plan.stages:
        if stage.rejects:
            yield f"refused by [{stage.name}]: {_counted(stage.rejects)}"
        skipped = {
            name.removeprefix("skipped_"): count
            for name, count in stage.counts.items()
            if name.startswith("skipped_") and count
        }
        if skipped:
            yield f"left out by [{stage.name}]: {_counted(skipped)}"


def _counted(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{reason} {number(count)}" for reason, count in counts.items())


def _lengths_said(plan: Plan) -> Iterator[str]:
    """Where the lengths of what models say are from."""
    bound = [stage.name for stage in plan.stages if stage.said == "bound"]
    given = [stage.name for stage in plan.stages if stage.said == "given" and stage.asked.generated]
    if bound:
        names = ", ".join(bound)
        yield f"{names}: responses are taken to be as long as they may be; --probe measures their lengths"
    uncounted = [stage.name for stage in plan.stages if stage.said == "uncounted"]
    if uncounted:
        names = ", ".join(uncounted)
        yield f"{names}: tokens are not known, since the recipe has no [model] whose tokenizer counts them"
    if given:
        yield f"{', '.join(given)}: responses are taken to be as long as those that they are made from"


def length_rows(plan: Plan) -> list[dict[str, str]]:
    """The table of what each max_length would do to the pairs."""
    rows: list[dict[str, str]] = []
    for cut in plan.lengths.cuts if plan.lengths else ():
        what = f" ({cut.what})" if cut.what else ""
        rows.append(
            {
                "max_length": f"{cut.max_length:,}{what}",
                "whole": f"{cut.whole:.1%}",
                "cut": f"{cut.cut:.1%}",
                "dropped": f"{cut.dropped:.1%}",
            }
        )
    return rows


def _reuse(plan: Plan) -> Iterator[str]:
    """What of the run folder is used again, and why what else lies there is not."""
    for stage in plan.stages:
        if stage.there >= plan.shards:
            yield f"{stage.folder}: used again, all {plan.shards:,} shards are there"
        elif stage.there:
            left = plan.shards - stage.there
            yield f"{stage.folder}: {stage.there:,} of {plan.shards:,} shards used again, {left:,} to make"
        for other, changes in plan.changed[stage.name]:
            if not stage.there:
                yield f"{stage.folder}: made anew, not {other}: {'; '.join(changes)}"


def _memory(plan: Plan, options: Options) -> Iterator[str]:
    for memory in plan.memory:
        assert options.device is not None
        fit = memory.fit
        shared = f" on each of {fit.devices} devices" if fit.devices > 1 else ""
        line = (
            f"{memory.model} ({number(memory.weights)} weights; {', '.join(memory.stages)}): at least "
            f"{bytes_text(fit.needs)}{shared} of {options.device.name}'s {bytes_text(options.device.memory)}"
        )
        if not memory.fits:
            line += ": does not fit; share it (tensor_parallel_size in [model.vllm]) or take a larger device"
        yield line


def _duration(plan: Plan, options: Options) -> Iterator[str]:
    time = plan.time
    yield from plan.taken
    devices = f"{options.devices:,} device{'s' if options.devices > 1 else ''}"
    where = "here, measured" if plan.measured else ""
    if options.device is not None:
        where = f"{devices} ({options.device.name}), by a roofline"
    if plan.measured:
        yield f"the models gave their first answers after {duration(plan.loading)}, which comes to that"
        yield f"this process held {bytes_text(plan.peak)} at most"
    if time.seconds is None:
        asks = [stage.name for stage in plan.stages if stage.server]
        if asks and (options.device or plan.measured):
            yield f"how long the server of {', '.join(asks)} takes is not known"
            return
        yield "how long the models take is not known: name a device (--device h100), or measure (--probe)"
        return
    workers = f"{time.workers:,} worker{'s' if time.workers > 1 else ''}"
    yield f"time: {duration(time.seconds)} with {workers}{', ' if where else ''}{where}"
    if time.kill is not None:
        yield f"a kill costs each worker at most one stage of one shard, {duration(time.kill)}"
    if options.device is not None and plan.device_hours is not None:
        cost = "" if plan.cost is None else f", which cost {plan.cost:,.2f}"
        unlike = ", without the reading" if time.seconds != time.at_work else ""
        yield f"device hours: {plan.device_hours:,.2f}{cost}{unlike}"
    if plan.idle:
        each = options.devices // time.workers
        yield f"{plan.idle} of the {devices} have no work: one copy of a model takes {each}"


def number(value: float) -> str:
    """A number for people: whole up to a million, then three digits."""
    for unit, name in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{round(value):,}"


def bytes_text(size: float) -> str:
    """Bytes for people, three digits."""
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{round(size)} B"
