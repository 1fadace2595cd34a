"""The plan of a run: rehearsed, scaled and timed. Nothing is written but what is remembered of files."""

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from engine.plan import Run, what_changed
from engine.planning.casts import StandIns
from engine.planning.devices import Device, Fit, Speed, sequences_at_once, size_of
from engine.planning.lengths import Lengths, lengths_of
from engine.planning.probing import Probed, probe
from engine.planning.rehearsal import Rehearsed, rehearse
from engine.planning.sampling import sample_of
from engine.planning.timing import RunTime, time_of
from engine.planning.whole import WholeStage, whole_of
from engine.threads import threads_of
from schemas.errors import UserError
from schemas.sections import Generate

ROWS = 2000  # of the input that are looked at
_PROMPTS = 1000  # of them that go through all stages
_LEAST_PROMPTS = 16
_SAMPLED = 400_000  # tokens that stand-ins say


@dataclass(frozen=True)
class Options:
    """What a plan is asked for. `device`: None for none that is named; `probe`: measure here; `price`: of one
    device for an hour."""

    device: Device | None = None
    devices: int = 1
    probe: bool = False
    price: float | None = None
    rows: int = ROWS


@dataclass(frozen=True)
class Memory:
    """A model on the device that is planned for."""

    model: str
    stages: tuple[str, ...]
    weights: int
    fit: Fit
    fits: bool


@dataclass(frozen=True)
class Plan:
    """All that `engine plan` says. `taken`: lines on what the recipe leaves to the device that is planned
    for; `readers`: processes that read the input; `idle`: devices without work.

    `prompts`: those that went through all stages; `loading`: seconds in which
    the models of a probe came to their first answers; `changed`: other folders of each stage in the run, with
    the facts that differ; `measured`: the times of models are those of a probe; `peak`: bytes that this
    process then held at most."""

    run: str
    shards: int
    sample_rows: int
    is_whole: bool
    rows: float
    unique_prompts: float
    prompts: int
    stages: tuple[WholeStage, ...]
    changed: dict[str, list[tuple[str, list[str]]]]
    lengths: Lengths | None
    time: RunTime
    taken: tuple[str, ...]
    readers: int
    idle: int
    measured: bool
    loading: float
    peak: int
    memory: tuple[Memory, ...]
    device_hours: float | None
    cost: float | None


def plan_of(run: Run, options: Options, here: Run | None = None, taken: tuple[str, ...] = ()) -> Plan:
    """`here`: the same run as this machine would make it, whose models a probe loads; `taken`: see Plan.

    Raises UserError as the run would, as far as a part of its input shows it."""
    sample = sample_of(run, options.rows)
    stand_ins = StandIns()
    prompts = _prompts_of(run)
    rehearsed: Sequence[Rehearsed] = rehearse(run, sample.rows, prompts, stand_ins)
    lengths = lengths_of(run, rehearsed, stand_ins)
    used = min(prompts, len(rehearsed[0].tables["prompts"]))
    probed: Probed | None = None
    if options.probe and any(one.asked.calls for one in rehearsed):
        a_shard = max(1, round(sample.prompts / run.shards))
        probed = probe(here or run, sample.rows, min(a_shard, used), threads_of(run, options.devices))
        rehearsed, used = probed.rehearsed, probed.prompts
    stages = whole_of(run, sample, rehearsed, used)
    if probed is not None:
        stages = [_as_probed(run, probed, stage) for stage in stages]
    speeds = _speeds(run, stages, options.device)
    workers, idle = _workers(speeds, options.devices)
    model_seconds = _model_seconds(speeds, options, probed is not None)
    timed = time_of(stages, run.shards, workers, sample.reading, model_seconds)
    hours = None if timed.at_work is None else timed.at_work / 3600 * options.devices
    return Plan(
        run=run.store.where(),
        shards=run.shards,
        sample_rows=len(sample.rows),
        is_whole=sample.is_whole,
        rows=sample.total,
        unique_prompts=sample.prompts,
        prompts=used,
        stages=tuple(stages),
        changed={stage.name: what_changed(run, stage) for stage in run.stages},
        lengths=lengths,
        time=timed,
        taken=taken,
        readers=sample.readers,
        idle=idle,
        measured=probed is not None and options.device is None,
        loading=probed.loading if probed else 0.0,
        peak=_peak_bytes() if probed else 0,
        memory=_memory(run, stages, speeds),
        device_hours=hours,
        cost=None if hours is None or options.price is None else hours * options.price,
    )


def _peak_bytes() -> int:
    """The most memory that this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _as_probed(run: Run, probed: Probed, stage: WholeStage) -> WholeStage:
    """The stage with the time of a model that samples, by the shards' calls."""
    if not stage.asked.generated or stage.name not in run.models:
        return stage
    at_once = sequences_at_once(run.models[stage.name])
    a_shard = probed.seconds_of(stage.name, stage.asked.generated / run.shards, at_once)
    return replace(stage, asked=replace(stage.asked, seconds=run.shards * a_shard))


def _prompts_of(run: Run) -> int:
    """How many prompts the rehearsal takes below the first stage."""
    generate = run.recipe.sections.get("generate")
    if not isinstance(generate, Generate):
        return _PROMPTS
    return max(_LEAST_PROMPTS, min(_PROMPTS, _SAMPLED // (generate.n * generate.max_tokens)))


def _speeds(run: Run, stages: Sequence[WholeStage], device: Device | None) -> dict[str, Speed]:
    """Of each stage whose model has work to do; empty where no device is named."""
    speeds: dict[str, Speed] = {}
    for stage in stages:
        if device is not None and stage.name in run.models and stage.asked.calls:
            model = run.models[stage.name]
            speeds[stage.name] = Speed(device, model, size_of(model))
    return speeds


def _workers(speeds: dict[str, Speed], devices: int) -> tuple[int, int]:
    """Workers that so many devices make, since a copy of a model may want several; and the devices that are
    left over. Raises UserError where there are too few for one."""
    together = max((speed.fit(0).devices for speed in speeds.values()), default=1)
    if devices < together:
        raise UserError(
            f"--devices {devices}, but the recipe asks for {together} of them for one engine "
            f"(tensor_parallel_size × pipeline_parallel_size of vLLM): say --devices {together} or more"
        )
    return devices // together, devices % together


def _model_seconds(
    speeds: dict[str, Speed], options: Options, is_probed: bool
) -> Callable[[WholeStage], float | None]:
    """The time of a stage's model: of the device that is named, else measured, else not known."""

    def seconds(stage: WholeStage) -> float | None:
        if not stage.asked.calls and not stage.server:
            return 0.0
        if stage.name in speeds:
            return speeds[stage.name].seconds(stage.asked)
        is_measured = options.device is None and is_probed and not stage.server
        return stage.asked.seconds if is_measured else None

    return seconds


def _memory(run: Run, stages: Sequence[WholeStage], speeds: dict[str, Speed]) -> tuple[Memory, ...]:
    """Each model once, with the longest of its stages' sequences."""
    found: dict[str, Memory] = {}
    for stage in stages:
        if stage.name not in speeds:
            continue
        speed = speeds[stage.name]
        asked = stage.asked
        context = 0.0
        if asked.generated:
            context = (asked.generate_prompt_tokens + asked.sampled_tokens) / asked.generated
        fit = speed.fit(context)
        before = found.get(stage.model)
        names = (*(before.stages if before else ()), stage.name)
        if before is not None and before.fit.needs >= fit.needs:
            fit = before.fit
        fits = fit.needs <= speed.device.memory
        found[stage.model] = Memory(stage.model, names, speed.size.weights, fit, fits)
    return tuple(found.values())
