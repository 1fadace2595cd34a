"""What one training pass takes beside weights and gradients, measured on the meta device.

The model is built from its config.json without weights, and the very pass of training (trainer/model.py) runs
in it, forward and backward, with the run's own pairs. trainer/live_memory.py counts what is alive.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from schemas.errors import UserError
from schemas.forward.attention import PACKED
from schemas.forward.logps import chunks_on_meta, decoder_and_head
from schemas.forward.precision import DTYPES, layers_of
from schemas.model_files import files_of_model, view
from schemas.sections import Train
from trainer import model as passes
from trainer.live_memory import LiveBytes, flash_on_meta
from trainer.lora import Adapter, put_on
from trainer.losses import Objective, lora_of
from trainer.losses.side import Side
from trainer.pairs import Pair
from trainer.policy import Policy, Precision, checkpoint_layers, lower_weights

_META = torch.device("meta")


@dataclass(frozen=True)
class PassBytes:
    """Of one pass of `tokens` tokens, beside weights and gradients that are there already.

    `kept`: what the layers keep for the backward pass, with weights lowered to another dtype; `most`: the
    most that is alive at once, logits and passing results with it."""

    tokens: int
    kept: int
    most: int


def empty_model(path: Path, config: Train, *, lowered: bool) -> PreTrainedModel:
    """A folder's model on the meta device, with the adapter of [train.lora], in the dtypes of training.

    `lowered`: all in the dtype that is computed in, as FSDP2 gathers it. Raises UserError where it cannot be
    built."""
    lora = lora_of(config)
    dtype = config.dtype if lowered or lora else config.weights
    with view(path, files_of_model(path)) as folder:
        try:
            settings = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            with _META:
                model: PreTrainedModel = AutoModelForCausalLM.from_config(
                    settings, dtype=DTYPES[dtype], attn_implementation="sdpa", trust_remote_code=False
                )
        except Exception as error:  # each class of a config fails in its own way
            raise UserError(f"the model in {path} cannot be built: {error}") from None
    model.eval()
    if lora:
        held = DTYPES[dtype if lowered else config.weights]
        with _META:
            put_on(model, Adapter(lora, seed=0, base=str(path)), held)
    return model


class PassMeter:
    """Measures passes through one empty model.

    `checkpoints`: layers are run again in the backward pass; `shards`: FSDP2 holds the weights, so gradients
    of layers leave the rank at once and those of other weights (embeddings, head) when the pass ends."""

    def __init__(
        self,
        path: Path,
        config: Train,
        objective: Objective,
        *,
        checkpoints: bool,
        shards: bool,
        on_gpu: bool,
    ) -> None:
        self._objective = objective
        self._shards = shards
        self._on_gpu = on_gpu
        model = empty_model(path, config, lowered=shards)
        model.config._attn_implementation = PACKED
        if checkpoints:
            checkpoint_layers(model)
        self._policy = Policy(model)
        if not shards:
            lower_weights(self._policy, Precision(compute=config.dtype, weights=config.weights))

    def measure(self, pairs: Sequence[Pair]) -> PassBytes:
        """The bytes of a pass over some pairs, whose numbers do not matter but their lengths."""
        policy = self._policy
        batch = passes.micro_batch(pairs, _META)
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        gradients = [] if self._shards else [torch.empty_like(parameter) for parameter in trained]
        for parameter, gradient in zip(trained, gradients, strict=False):
            parameter.grad = gradient
        held = [*policy.parameters(), *policy.buffers(), *gradients, *_tensors_of(batch)]
        live = LiveBytes(held)
        begun: list[int] = []

        def note(*_: object) -> None:
            begun.append(live.live)

        _, head = decoder_and_head(policy.model)
        hooks = [head.projection.register_forward_pre_hook(note)]
        if self._shards:
            hooks += [_give_away(parameter) for parameter in self._of_layers(trained)]
        try:
            kind = "cuda" if self._on_gpu else "cpu"
            with flash_on_meta(masks_are_floats=not self._on_gpu), chunks_on_meta(kind), live:
                loss = policy(self._work(batch))
                loss.backward()
                del loss
        finally:
            for hook in hooks:
                hook.remove()
            policy.zero_grad(set_to_none=True)
        tokens = sum(pair.most_tokens for pair in pairs)
        return PassBytes(tokens, begun[0], live.peak)

    def _of_layers(self, trained: list[nn.Parameter]) -> list[nn.Parameter]:
        inside: set[nn.Parameter] = set()
        for layer in layers_of(self._policy.model):
            inside.update(layer.parameters())
        return [parameter for parameter in trained if parameter in inside]

    def _work(self, batch: passes.MicroBatch) -> Callable[[PreTrainedModel], torch.Tensor]:
        quality: list[torch.Tensor] = []
        if batch.quality is not None:
            quality = [torch.empty(length, device=_META) for length in batch.quality.lengths]

        def work(policy: PreTrainedModel) -> torch.Tensor:
            return passes.training_loss(
                policy, batch, quality, loss=self._objective, scale=1.0, observe=_observe_nothing
            )

        return work


def _observe_nothing(losses: torch.Tensor, chosen: Side, rejected: Side) -> None:
    """No number is there to look at."""


def _give_away(parameter: nn.Parameter) -> torch.utils.hooks.RemovableHandle:
    """Free a gradient as soon as it is whole."""

    def give_away(whole: torch.Tensor) -> None:
        whole.grad = None

    return parameter.register_post_accumulate_grad_hook(give_away)


def _tensors_of(batch: passes.MicroBatch) -> list[torch.Tensor]:
    """The indices of a batch, which are as good as nothing."""
    return [*batch.columns.values(), batch.layout.ids]
