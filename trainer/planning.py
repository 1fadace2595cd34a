"""What `trainer plan` says of a run."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from schemas.devices import batch_tokens
from schemas.recipe import Recipe
from schemas.store import Store
from trainer.dist import Ranks
from trainer.fitting import decide, free_bytes, some_pairs
from trainer.job import plan
from trainer.memory import MARGIN, Estimate, Predictor, Setting, in_words, remedies
from trainer.parallel import shard_size


def lines_of_plan(run: Store, recipe: Recipe, world_size: int, device_memory: int | None) -> Iterator[str]:
    """The plan line by line. `device_memory`: bytes of each rank's device; None: what is free here."""
    job = plan(run, recipe)
    device = _device(recipe.section("model").device, device_memory)
    size = device_memory
    if size is None:
        size = free_bytes(device, world_size if device.type == "cpu" else 1)
    room = None if size is None else int(size * (1 - MARGIN))
    setting = Setting(job.source, job.config, job.objective, world_size, device.type == "cuda")
    pairs = some_pairs(job.pairs)
    found = decide(setting, pairs, device.type, room)
    setting = replace(setting, config=found.config)
    shard_size(found.config, Ranks(0, world_size, device))  # a run would refuse it too
    predictor = Predictor(setting, pairs)
    estimate = found.estimate or predictor.estimate(found.budget)
    most = 8 * batch_tokens(0, device.type)
    largest = most if room is None else predictor.largest(room, most)
    passes = f"passes of at most {found.budget:,} tokens, " if largest else ""
    yield f"{_shared_how(setting)}; {passes}the longest pair looked at has {pairs[0].most_tokens:,}"
    yield from _table(estimate, setting)
    yield from found.reasons
    if room is None or size is None:
        yield "how much memory there is here is not known: give --device-memory"
        return
    yield _verdict(estimate, room, size)
    if largest:
        more = " or more" if largest == most else ""
        yield f"the largest pass that fits: {largest:,} tokens{more} (train.micro_batch_tokens)"
    if not largest or estimate.total > room:
        yield "what takes less, in the order in which it costs least:"
        for line in remedies(setting, pairs, room):
            yield f"  {line}"


def _device(wanted: str, device_memory: int | None) -> torch.device:
    """What is planned for: a GPU where one is named, is here, or is meant by its memory."""
    if wanted.startswith("cpu"):
        return torch.device("cpu")
    is_gpu = wanted.startswith("cuda") or torch.cuda.is_available() or device_memory is not None
    return torch.device("cuda" if is_gpu else "cpu")


def _shared_how(setting: Setting) -> str:
    config = setting.config
    sharing = "alone"
    if setting.world_size > 1:
        sharing = f"{config.parallel} on {setting.world_size} ranks"
    checkpoints = ", activations made again" if setting.checkpoints else ""
    return (
        f"{sharing}: computed in {config.dtype}, weights in {config.weights}, {config.optimizer}{checkpoints}"
    )


def _table(estimate: Estimate, setting: Setting) -> Iterator[str]:
    rows = {
        "weights": estimate.weights,
        "gradients": estimate.gradients,
        "optimizer": estimate.optimizer,
        "activations": estimate.activations,
        "logits": estimate.logits,
        "gathered": estimate.gathered,
    }
    if setting.shards == 1:
        del rows["gathered"]
    for name, size in rows.items():
        yield f"  {name:<12}{in_words(size):>10}"
    yield f"  {'together':<12}{in_words(estimate.total):>10} a rank"


def _verdict(estimate: Estimate, room: int, size: int) -> str:
    if estimate.total <= room:
        return f"fits {in_words(size)}, of which {MARGIN:.0%} are left free"
    return f"does not fit {in_words(size)}, of which {MARGIN:.0%} are left free"
