"""What `trainer plan` says of a run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from schemas.devices import batch_tokens
from schemas.recipe import Recipe
from schemas.store import Store
from trainer.dist import Ranks
from trainer.fitting import decide, free_bytes, some_pairs
from trainer.job import plan
from trainer.memory import MARGIN, Estimate, Predictor, Setting, in_words, remedies
from trainer.parallel import shard_size


@dataclass(frozen=True)
class TrainingPlan:
    """What training takes of each rank's memory, in bytes.

    `room`: what it may take of `size`; both None where nobody knows. `tokens`: of a pass; `most_tokens`: of
    the longest pair; `largest`: tokens of the largest pass that fits, 0 where none does, `may_be_larger`
    where even more may; `reasons`: what was decided and why; `remedies`: what takes less."""

    setting: Setting
    estimate: Estimate
    room: int | None
    size: int | None
    tokens: int
    most_tokens: int
    largest: int
    may_be_larger: bool
    reasons: tuple[str, ...]
    remedies: tuple[str, ...]

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None where it is not known how much there is."""
        return None if self.room is None else self.estimate.total <= self.room

    def document(self) -> dict[str, object]:
        """For JSON, in bytes and tokens."""
        config = self.setting.config
        return {
            "world_size": self.setting.world_size,
            "parallel": config.parallel if self.setting.world_size > 1 else "none",
            "dtype": config.dtype,
            "bytes": _parts(self.estimate, self.setting) | {"together": self.estimate.total},
            "device_memory": self.size,
            "margin": MARGIN,
            "fits": self.fits,
            "tokens_of_a_pass": self.tokens,
            "tokens_of_the_largest_pass": self.largest,
            "tokens_of_the_longest_pair": self.most_tokens,
            "reasons": self.reasons,
            "remedies": self.remedies,
        }

    def lines(self) -> Iterator[str]:
        """The plan line by line."""
        passes = f"passes of at most {self.tokens:,} tokens, " if self.largest else ""
        longest = f"the longest pair looked at has {self.most_tokens:,}"
        yield f"{_shared_how(self.setting)}; {passes}{longest}"
        yield from _table(self.estimate, self.setting)
        yield from self.reasons
        if self.size is None:
            yield "how much memory there is here is not known: give --device-memory"
            return
        word = "fits" if self.fits else "does not fit"
        yield f"{word} {in_words(self.size)}, of which {MARGIN:.0%} are left free"
        if self.largest:
            more = " or more" if self.may_be_larger else ""
            yield f"the largest pass that fits: {self.largest:,} tokens{more} (train.micro_batch_tokens)"
        if self.remedies:
            yield "what takes less, in the order in which it costs least:"
            for line in self.remedies:
                yield f"  {line}"


def plan_training(run: Store, recipe: Recipe, world_size: int, device_memory: int | None) -> TrainingPlan:
    """What training a recipe takes. `device_memory`: bytes of each rank's device; None: what is free here."""
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
    is_too_much = room is not None and (not largest or estimate.total > room)
    return TrainingPlan(
        setting=setting,
        estimate=estimate,
        room=room,
        size=size,
        tokens=found.budget,
        most_tokens=pairs[0].most_tokens,
        largest=largest,
        may_be_larger=largest == most,
        reasons=found.reasons,
        remedies=tuple(remedies(setting, pairs, room)) if is_too_much and room is not None else (),
    )


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


def _parts(estimate: Estimate, setting: Setting) -> dict[str, int]:
    """What the bytes are for, by name."""
    parts = {
        "weights": estimate.weights,
        "gradients": estimate.gradients,
        "optimizer": estimate.optimizer,
        "activations": estimate.activations,
        "logits": estimate.logits,
        "gathered": estimate.gathered,
    }
    if setting.shards == 1:
        del parts["gathered"]
    return parts


def _table(estimate: Estimate, setting: Setting) -> Iterator[str]:
    for name, size in _parts(estimate, setting).items():
        yield f"  {name:<12}{in_words(size):>10}"
    yield f"  {'together':<12}{in_words(estimate.total):>10} a rank"
