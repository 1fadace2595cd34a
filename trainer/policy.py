"""The policy: the model that is trained, as one module through which every pass goes.

Whatever is computed with the model is computed inside `Policy.forward`, with the head as well as the layers.
So a wrapper around it (DDP, FSDP2) sees each pass begin and end, and no weight is used outside of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from schemas.forward import load as forward_load
from schemas.forward.precision import (
    DTYPES,
    built_in,
    compute_dtypes,
    layers_of,
    lower_in_forward,
    name_in_class,
)
from schemas.quantization import NONE
from trainer.lora import Placed, dropouts_of, seed_of_step

T = TypeVar("T")


@dataclass(frozen=True)
class Precision:
    """The dtypes of a policy, by their names.

    `compute`: the forward pass runs in it. `weights`: what is trained is held in it. `base`: the model's own
    weights are held in it, which is another one than `weights` where an adapter is trained in their place.
    `quantization`: as the recipe's [model] says it."""

    compute: str = "float32"
    weights: str = "float32"
    base: str = "float32"
    quantization: str = NONE


class Policy(nn.Module):
    """A model whose every pass is a call of this module.

    `model`: as transformers builds it, maybe with an `adapter` in it. Its weights may be held in another
    dtype than they are computed in (schemas/forward/precision.py). `buffers_as_read`: those that the model
    holds rounded and a checkpoint does not, by name."""

    def __init__(
        self,
        model: PreTrainedModel,
        adapter: Placed | None = None,
        buffers_as_read: dict[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.adapter = adapter
        self.buffers_as_read = buffers_as_read or {}
        self._dropouts = dropouts_of(model)

    def forward(self, work: Callable[[PreTrainedModel], T]) -> T:
        """What `work` makes of the model. Ranks that share its weights must do the same passes in it."""
        # They stay as they are until the next pass: a layer may run again in the backward pass.
        for dropout in self._dropouts:
            dropout.train(torch.is_grad_enabled())
        return work(self.model)

    def draw_dropout_by(self, step: int, rank: int) -> None:
        """Let what an adapter drops from now on be a function of the step and the rank."""
        if self.adapter:
            torch.manual_seed(seed_of_step(self.adapter.seed, step, rank))


def read_model(path: Path, device: torch.device | str, precision: Precision) -> PreTrainedModel:
    """A folder's model as it is held for training: no dropout, no generation config of its own."""
    model = forward_load.read_weights(
        AutoModelForCausalLM,
        path,
        DTYPES[precision.base],
        device,
        quantization=precision.quantization,
        attn_implementation="sdpa",
    )
    # It would change sampling without being asked to, and many published ones cannot be saved again.
    model.generation_config = GenerationConfig()
    # Dropout would make a model differ from its own log-probs. The DPO authors' code switches it off too.
    model.eval()
    # What the class does not train (the biases by which a router is balanced) is made trainable by loading.
    built = dict(built_in(model, DTYPES[precision.base]).named_parameters())
    for name, parameter in model.named_parameters():
        weight = built.get(name_in_class(name))
        if weight is not None and not weight.requires_grad:
            parameter.requires_grad_(False)
    return model


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Make each layer's activations again in the backward pass instead of keeping them."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # transformers checkpoints only layers that are in training. Their parts stay in eval, so no dropout wakes
    # up. Layers within layers (Zamba2) are made again with the outer one, which lowers their weights.
    for layer in layers_of(model):
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True


def lower_weights(policy: Policy, precision: Precision) -> None:
    """Let a policy that no FSDP lowers compute in its dtype."""
    dtypes = compute_dtypes(policy.model, DTYPES[precision.compute])
    lower_in_forward(policy, layers_of(policy.model), dtypes)
