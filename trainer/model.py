"""The policy: load it, and run pairs through it to two Sides."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from schemas import packed
from trainer.data import Pair
from trainer.losses.side import Side


def load(path: Path, device: torch.device, gradient_checkpointing: bool) -> PreTrainedModel:
    """A policy in float32 (autocast lowers the arithmetic where bfloat16 is wanted, not the weights: updates of 5e-7 would vanish in them)."""
    model = packed.load(path, torch.float32, device)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # transformers checkpoints only layers that are in training. Their parts stay in eval: no dropout wakes up.
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True
    return model


def sides(model: PreTrainedModel, pairs: Sequence[Pair], device: torch.device) -> tuple[Side, Side]:
    """Chosen and rejected of B pairs, each (B, T) with its own T; one packed forward, the prompt computed once."""
    layout = packed.lay([(pair.prompt_ids, (pair.chosen_ids, pair.rejected_ids)) for pair in pairs], device)
    parts = packed.token_logps(model, layout).split(layout.lengths)
    chosen = _side(parts[0::2], [pair.ref_chosen_token_logps for pair in pairs])
    rejected = _side(parts[1::2], [pair.ref_rejected_token_logps for pair in pairs])
    return chosen, rejected


def _side(token_logps: Sequence[torch.Tensor], reference: Sequence[np.ndarray]) -> Side:
    device = token_logps[0].device
    mask = pad_sequence([torch.ones(len(row), device=device) for row in reference], batch_first=True)
    ref = pad_sequence([torch.from_numpy(row.copy()).to(device) for row in reference], batch_first=True)
    return Side(pad_sequence(list(token_logps), batch_first=True), ref, mask)
