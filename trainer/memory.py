"""How much memory a rank takes in training, known before a weight is loaded.

    weights      what this rank holds of them: all, or under FSDP2 one part in `shard_size`
    gradients    of what is trained, in the dtype of the weights; DDP with several passes a step: twice
    optimizer    Adam: two moments in the dtype of the weights, or in 8 bits; RMSprop: one
    gathered     FSDP2: the policy's own weights whole (embeddings, head, last norm), two layers (one runs,
                 the next is on its way), a layer's gradients before they are shared out
    activations  what the layers keep for the backward pass, weights lowered to the dtype of computing too
    logits       the rest of the most that a pass takes: a chunk's logits, the head's gradient, results

Activations and logits are measured on the meta device (trainer/pass_memory.py). What the system, the
libraries and the allocator take is not in these numbers: `fits` leaves a margin for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from schemas.forward.precision import DTYPES, compute_dtypes, layers_of
from schemas.sections import Train
from trainer.losses import Objective
from trainer.pairs import Pair
from trainer.pass_memory import PassBytes, PassMeter, empty_model

MARGIN = 0.08  # of the device's memory, left free
_GIB = 1 << 30
_MIB = 1 << 20
_QUANTISED_FROM = 4096  # numbers; torchao keeps smaller moments as they are
_BLOCK = 256  # numbers of an 8-bit moment with one float32 scale


@dataclass(frozen=True)
class Estimate:
    """Bytes of one rank, and the tokens of the pass that they are for."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    logits: int
    tokens: int
    at_end: int = 0  # FSDP2: whole weights and gradients when a pass ends, its activations gone

    @property
    def states(self) -> int:
        """What is there between two passes."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """The most that is there at once."""
        of_pass = self.gathered + self.activations + self.logits
        return self.states + max(of_pass, self.at_end)


@dataclass(frozen=True)
class Setting:
    """What decides how much a run of a model takes. `config`: with dtype resolved."""

    source: Path
    config: Train
    objective: Objective
    world_size: int
    on_gpu: bool

    @property
    def shards(self) -> int:
        """Ranks among which weights are split; 1 where each holds all."""
        if self.config.parallel != "fsdp" or self.world_size == 1:
            return 1
        return self.config.shard_size or self.world_size

    @property
    def checkpoints(self) -> bool:
        """True where activations are made again."""
        return self.config.gradient_checkpointing == "true"


@dataclass(frozen=True)
class _States:
    weights: int
    gradients: int
    optimizer: int
    gathered: int
    at_end: int


class Predictor:
    """Predicts for one setting what passes of different sizes take. Builds the model once."""

    def __init__(self, setting: Setting, pairs: Sequence[Pair]) -> None:
        """`pairs`: some of the run's, whose lengths stand for those of all."""
        self._meter = PassMeter(
            setting.source,
            setting.config,
            setting.objective,
            checkpoints=setting.checkpoints,
            shards=setting.shards > 1,
            on_gpu=setting.on_gpu,
        )
        self._states = states(setting)
        self._share = -(-setting.config.batch_size // setting.world_size)
        # DDP holds its buckets all the time, and what passes before the last one have added up beside them.
        self._adds_apart = setting.world_size > 1 and setting.shards == 1
        self._pairs = pairs
        self._measured: dict[int, PassBytes] = {}

    def estimate(self, tokens: int) -> Estimate:
        """For passes of about so many tokens: as many of the pairs, one after another, at least one."""
        chosen = filled(self._pairs, tokens)[: self._share]
        return self.of_part(chosen, several=len(chosen) < self._share)

    def of_part(self, pairs: Sequence[Pair], *, several: bool) -> Estimate:
        """For passes over these pairs. `several`: a step of a rank has more than one."""
        tokens = sum(pair.most_tokens for pair in pairs)
        if tokens not in self._measured:
            self._measured[tokens] = self._meter.measure(pairs)
        return self._of_pass(self._measured[tokens], several)

    def _of_pass(self, measured: PassBytes, several: bool) -> Estimate:
        """The whole of which a pass is a part. `several`: a step of a rank has more than one."""
        own = self._states
        gradients = own.gradients
        if several and self._adds_apart:
            gradients *= 2
        return Estimate(
            weights=own.weights,
            gradients=gradients,
            optimizer=own.optimizer,
            gathered=own.gathered,
            activations=measured.kept,
            logits=measured.most - measured.kept,
            tokens=measured.tokens,
            at_end=own.at_end,
        )

    def largest(self, room: int, most: int) -> int:
        """The tokens of the largest pass, up to `most`, that fits `room` bytes with all else; 0 for none.

        Bytes grow in proportion to tokens. So the line through two sizes tells the third, which is measured
        again."""
        few = self.estimate(most // 8)
        many = self.estimate(most)
        if many.total <= room:
            return most
        if few.total > room:
            smallest = self.estimate(1)
            if smallest.total > room or smallest.tokens >= few.tokens:
                return 0
            few, many = smallest, few
        each = (many.total - few.total) / max(1, many.tokens - few.tokens)
        found = few.tokens + int((room - few.total) / max(each, 1.0))
        while found > few.tokens and self.estimate(found).total > room:
            found = int(found * 0.95)
        return max(found, 1)


def filled(pairs: Sequence[Pair], tokens: int) -> list[Pair]:
    """At least one pair, and as many more as `tokens` have room for, from the beginning again at the end."""
    chosen = [pairs[0]]
    used = pairs[0].most_tokens
    place = 1
    while used + pairs[place % len(pairs)].most_tokens <= tokens:
        pair = pairs[place % len(pairs)]
        chosen.append(pair)
        used += pair.most_tokens
        place += 1
    return chosen


def states(setting: Setting) -> _States:
    """The bytes that do not depend on a pass."""
    config = setting.config
    model = empty_model(setting.source, config, lowered=False)
    shards = setting.shards
    weights = sum(_bytes(buffer) for buffer in model.buffers())
    gradients = 0
    optimizer = 0
    for parameter in model.parameters():
        weights += _share(_bytes(parameter), shards)
        if parameter.requires_grad:
            gradients += _share(_bytes(parameter), shards)
            optimizer += moments(parameter, config, shards)
    gathered, at_end = _gathered(model, setting) if shards > 1 else (0, 0)
    return _States(weights, gradients, optimizer, gathered, at_end)


def _bytes(tensor: nn.Parameter) -> int:
    return tensor.numel() * tensor.element_size()


def _share(size: int, shards: int) -> int:
    return -(-size // shards)


def moments(parameter: nn.Parameter, config: Train, shards: int) -> int:
    """The optimizer's bytes for one weight on one rank."""
    numbers = _share(parameter.numel(), shards)
    if config.optimizer == "rmsprop":
        return numbers * parameter.element_size()
    is_quantised = numbers >= _QUANTISED_FROM and numbers % _BLOCK == 0
    if config.optimizer == "adamw_8bit" and is_quantised:
        return 2 * (numbers + 4 * numbers // _BLOCK)
    return 2 * numbers * torch.float32.itemsize  # whatever the weight itself is in (optimizers.py)


def _gathered(model: PreTrainedModel, setting: Setting) -> tuple[int, int]:
    """What FSDP2 holds whole beside its parts: the policy's own weights, two layers, results on their way.

    The second number: when a pass ends, with the gradients of embeddings and head. A gradient that is shared
    out is there whole, in the dtype of the exchange, and once more in the exchange (gloo's copy)."""
    config = setting.config
    dtypes = compute_dtypes(model, DTYPES[config.dtype])
    reduced = DTYPES[config.reduce_dtype].itemsize
    in_layers: set[nn.Parameter] = set()
    largest = 0
    largest_gradient = 0
    for layer in layers_of(model):
        own = list(layer.parameters())
        in_layers.update(own)
        largest = max(largest, sum(_computed(parameter, dtypes) for parameter in own))
        trained = [parameter for parameter in own if parameter.requires_grad]
        of_layer = sum(parameter.numel() * reduced + _computed(parameter, dtypes) for parameter in trained)
        largest_gradient = max(largest_gradient, of_layer)
    own_of_root = [one for one in model.parameters() if one not in in_layers]
    embeddings = model.get_input_embeddings().weight
    if embeddings is not model.get_output_embeddings().weight:
        in_layers.add(embeddings)  # a unit of its own, gone when the first layer runs
    root = sum(_computed(one, dtypes) for one in model.parameters() if one not in in_layers)
    layers = 2 * largest
    if not config.reshard_after_forward:
        layers = sum(_computed(parameter, dtypes) for parameter in in_layers)
    at_end = sum(_computed(one, dtypes) for one in own_of_root)
    at_end += sum(_computed(one, dtypes) for one in own_of_root if one.requires_grad)
    last_exchange = embeddings.numel() if embeddings.requires_grad else 0
    return root + layers + largest_gradient, at_end + 2 * reduced * last_exchange


def _computed(parameter: nn.Parameter, dtypes: dict[torch.Tensor, torch.dtype]) -> int:
    return parameter.numel() * dtypes.get(parameter, parameter.dtype).itemsize


def in_words(size: int) -> str:
    """Bytes for people: 1.5 GiB, 230 MiB."""
    if size >= _GIB:
        return f"{size / _GIB:.1f} GiB"
    return f"{size / _MIB:.0f} MiB"


# What takes less memory, in the order in which it costs least: the words for it, and the setting.
REMEDIES: tuple[tuple[str, dict[str, str]], ...] = (
    ('train.parallel = "fsdp"', {"parallel": "fsdp"}),
    ('train.gradient_checkpointing = "true"', {"gradient_checkpointing": "true"}),
    ('train.optimizer = "adamw_8bit"', {"optimizer": "adamw_8bit"}),
    ('train.weights = "bfloat16"', {"weights": "bfloat16"}),
)


def remedies(setting: Setting, pairs: Sequence[Pair], room: int) -> list[str]:
    """What to change, one after another, until one pair fits `room` bytes; each with what it comes to.

    The last line is an adapter where all of these together are not enough."""
    lines: list[str] = []
    for words, values in REMEDIES:
        needs_ranks = "parallel" in values
        changed = replace(setting.config, **values)  # type: ignore[arg-type]
        if changed == setting.config or (needs_ranks and setting.world_size == 1):
            continue
        if needs_ranks and setting.world_size % (changed.shard_size or 1):
            changed = replace(changed, shard_size=0)  # a run would refuse it
            words = f"{words}, train.shard_size = 0"
        setting = replace(setting, config=changed)
        smallest = Predictor(setting, pairs).estimate(1)
        fits = smallest.total <= room
        verdict = "fits" if fits else "still too much"
        lines.append(f"{words}: {in_words(smallest.total)} with one pair a pass, {verdict}")
        if fits:
            return lines
    lines.append(
        "[train.lora], which trains an adapter: gradients and optimizer of a hundredth of the weights"
    )
    lines.append('model.quantization = "nf4" with it: the weights in 4 bits')
    lines.append("more ranks, or a smaller model")
    return lines
