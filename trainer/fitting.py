"""The settings of [train] that follow from memory: parallel, gradient_checkpointing, micro_batch_tokens.

    parallel = "auto"                 ddp where weights, gradients and optimizer fit 70 % of the device; else
                                      fsdp
    gradient_checkpointing = "auto"   on where otherwise passes of less than 4,096 tokens would fit
    micro_batch_tokens = 0            what fits, up to 16,384 tokens; on a CPU up to 2,048 (more fall out of
                                      its caches)

Rank 0 decides for all. None of it is a fact of the run: it changes rounding only. What was decided, but for a
CPU with memory enough, is kept in the train folder (memory.json), so that a run that goes on cuts its batches
as before. A setting of the recipe's own is never changed.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from schemas.devices import batch_tokens
from schemas.errors import UserError
from schemas.quantization import NONE
from schemas.records import Damaged, read_record, sealed_bytes
from schemas.room import free_memory
from schemas.sections import Train
from schemas.store import Store
from trainer.dist import Ranks
from trainer.job import Job
from trainer.memory import MARGIN, Estimate, Predictor, Setting, in_words, states
from trainer.out_of_memory import Budget
from trainer.pairs import Pair, Pairs, read_shard

RECORD = "memory.json"
_DDP_SHARE = 0.7  # of the device that weights, gradients and optimizer may take under ddp
_ENOUGH_TOKENS = 4096  # of a pass; with less a GPU waits for its memory
_LOOKED_AT = 256  # pairs whose lengths stand for all
# A pass on a CPU surely takes less than so many bytes for each number of a layer's inputs.
_SURELY = 64


@dataclass(frozen=True)
class Decided:
    """memory.json. `tokens`: of a pass; `parallel`, `gradient_checkpointing`: as [train] has them."""

    device: str
    world_size: int
    parallel: str
    gradient_checkpointing: str
    tokens: int


def free_bytes(device: torch.device, ranks_here: int) -> int | None:
    """What a rank may take of a device now; None where the system does not say.

    `ranks_here`: those of this machine, which share its memory on a CPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    available = free_memory()
    return None if available is None else available // max(1, ranks_here)


def some_pairs(pairs: Pairs) -> list[Pair]:
    """Some of the pairs to train on, the longest first."""
    for shard, marker in enumerate(pairs.markers):
        if marker.counts.get("train"):
            rows = read_shard(pairs, shard, "train")
            found = rows[:_LOOKED_AT]
            return sorted(found, key=lambda pair: pair.most_tokens, reverse=True)
    raise AssertionError("open_pairs refuses pairs of which none is to train on")


@dataclass(frozen=True)
class Fit:
    """What was decided. `estimate`: of a rank with it, where it had to be known; `room`: what it may take."""

    config: Train
    budget: int
    estimate: Estimate | None
    room: int | None
    reasons: tuple[str, ...] = ()


def decide(setting: Setting, pairs: Sequence[Pair], device: str, room: int | None) -> Fit:
    """Resolve the settings that are left open. `room`: the bytes that a rank may take; None: not known."""
    config = setting.config
    most = batch_tokens(config.micro_batch_tokens, device)
    if room is None:
        return Fit(_settled(config, "ddp", "false"), most, None, None)
    reasons: list[str] = []
    if config.parallel == "auto":
        config = _with_parallel(setting, room, reasons)
        setting = replace(setting, config=config)
    predictor: Predictor | None = None
    if config.gradient_checkpointing == "auto":
        plain = replace(setting, config=replace(config, gradient_checkpointing="false"))
        predictor = Predictor(plain, pairs)
        wanted = max(min(_ENOUGH_TOKENS, most), pairs[0].most_tokens)
        largest = predictor.largest(room, max(most, wanted))
        config = plain.config
        if largest < wanted:
            config = replace(config, gradient_checkpointing="true")
            predictor = None
            reasons.append(
                f"gradient_checkpointing = true: without it passes of {largest:,} tokens fit, and {wanted:,} "
                "are wanted"
            )
        setting = replace(setting, config=config)
    predictor = predictor or Predictor(setting, pairs)
    budget = most
    if not config.micro_batch_tokens:
        budget = predictor.largest(room, most)
        if not budget:
            reasons.append(f"not even one pair fits {in_words(room)} by this count")
            budget = 1
    return Fit(config, budget, predictor.estimate(budget), room, tuple(reasons))


def _with_parallel(setting: Setting, room: int, reasons: list[str]) -> Train:
    whole = states(replace(setting, config=replace(setting.config, parallel="ddp")))
    size = whole.weights + whole.gradients + whole.optimizer
    if setting.world_size == 1 or size <= _DDP_SHARE * room:
        return replace(setting.config, parallel="ddp")
    reasons.append(f"parallel = fsdp: weights, gradients and optimizer are {in_words(size)}")
    return replace(setting.config, parallel="fsdp")


def _settled(config: Train, parallel: str, checkpointing: str) -> Train:
    """The settings with what is left open set to these."""
    if config.parallel == "auto":
        config = replace(config, parallel=parallel)
    if config.gradient_checkpointing == "auto":
        config = replace(config, gradient_checkpointing=checkpointing)
    return config


def surely_fits(setting: Setting, pairs: Sequence[Pair], room: int, tokens: int) -> bool:
    """True where a pass of so many tokens fits a CPU by far, told without building a pass."""
    own = states(replace(setting, config=_settled(setting.config, "ddp", "false")))
    size = own.weights + own.gradients + own.optimizer
    # A layer has at least hidden² weights, and none has inputs wider than all its weights.
    used = max(tokens, pairs[0].most_tokens)
    return 2 * size + _SURELY * used * int(size**0.5) < room // 2


def fit(job: Job, ranks: Ranks) -> tuple[Job, Budget, list[str]]:
    """The job with what follows from memory, the limit of its passes, and what there is to say of it.

    Every rank calls it and gets the same. What was decided when the run began is taken again on as many ranks
    of the same kind; `trainer run --no-resume` decides anew (trainer/resume.py)."""
    on_gpu = ranks.device.type == "cuda"
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world_size))
    known = ranks.gather([free_bytes(ranks.device, here)])
    rooms = [int(size * (1 - MARGIN)) for size in known if size is not None]
    room = min(rooms, default=None)

    def decide_here() -> tuple[Decided, list[str]]:
        kept = read(job.folder)
        is_same = kept is not None and (kept.device, kept.world_size) == (ranks.device.type, ranks.world_size)
        if kept is not None and is_same:
            return kept, []
        config = job.config
        if job.recipe.section("model").quantization != NONE:
            config = _settled(config, "ddp", config.gradient_checkpointing)  # they cannot be split
        setting = Setting(job.source, config, job.objective, ranks.world_size, on_gpu)
        found, lines = _decide_for_run(setting, job, ranks.device.type, room)
        decided = Decided(
            device=ranks.device.type,
            world_size=ranks.world_size,
            parallel=found.config.parallel,
            gradient_checkpointing=found.config.gradient_checkpointing,
            tokens=found.budget,
        )
        if found.reasons or on_gpu:
            job.folder.put(RECORD, sealed_bytes(vars(decided)))
        return decided, lines

    decided, lines = ranks.from_first(decide_here)
    config = _settled(job.config, decided.parallel, decided.gradient_checkpointing)
    tokens = config.micro_batch_tokens or decided.tokens

    def keep(tokens: int) -> None:
        lower = replace(decided, tokens=tokens)
        job.folder.put(RECORD, sealed_bytes(vars(lower)))

    tokens = min(tokens, decided.tokens)  # less where it ran out of memory before
    return replace(job, config=config), Budget(tokens, keep), lines


def _decide_for_run(setting: Setting, job: Job, device: str, room: int | None) -> tuple[Fit, list[str]]:
    """The decision, and the lines about it."""
    tokens = batch_tokens(setting.config.micro_batch_tokens, device)
    pairs = some_pairs(job.pairs)
    if room is None or (device == "cpu" and surely_fits(setting, pairs, room, tokens)):
        return Fit(_settled(setting.config, "ddp", "false"), tokens, None, room), []
    found = decide(setting, pairs, device, room)
    assert found.estimate is not None
    lines = [summary(found.estimate, room), *found.reasons]
    return found, lines


def summary(estimate: Estimate, room: int) -> str:
    """One line: what a rank takes of what there is."""
    return (
        f"memory of a rank: {in_words(estimate.total)} of {in_words(room)} (weights "
        f"{in_words(estimate.weights)}, gradients {in_words(estimate.gradients)}, optimizer "
        f"{in_words(estimate.optimizer)}, passes of {estimate.tokens:,} tokens "
        f"{in_words(estimate.gathered + estimate.activations + estimate.logits)})"
    )


def read(folder: Store) -> Decided | None:
    """What was decided when the run began; None where nothing was, or the file is damaged."""
    if not folder.exists(RECORD):
        return None
    try:
        return read_record(folder, RECORD, Decided)
    except (Damaged, UserError):
        return None
