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
    chosen = _side(parts[0::2], pairs, "chosen")
    rejected = _side(parts[1::2], pairs, "rejected")
    return chosen, rejected


def _side(token_logps: Sequence[torch.Tensor], pairs: Sequence[Pair], name: str) -> Side:
    device = token_logps[0].device

    def padded(rows: Sequence[np.ndarray]) -> torch.Tensor:
        return pad_sequence([torch.from_numpy(row.astype(np.float32)).to(device) for row in rows], batch_first=True)

    ref = [getattr(pair, f"ref_{name}_token_logps") for pair in pairs]
    edits = f"{name}_edit_mask"
    edit_mask = padded([pair.more[edits] for pair in pairs]) if edits in pairs[0].more else None
    return Side(pad_sequence(list(token_logps), batch_first=True), padded(ref), padded([np.ones(len(row)) for row in ref]), edit_mask)
