"""The policy: load it, and run pairs through it to two Sides."""

from collections.abc import Sequence
from dataclasses import replace
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
    """Chosen and rejected of B pairs, each (B, T) with its own T, and what the pairs bring beside (baseline, quality context, edit masks, scores).

    One packed forward, the prompt computed once for all its responses; for the quality context one more, without gradient, before it."""
    quality = [None, None]
    if "quality_prompt_ids" in pairs[0].more:
        with torch.no_grad():
            quality = _run(model, pairs, "quality_prompt_ids", ("chosen", "rejected"), "_quality", device)
    names = ("chosen", "rejected", *(["baseline"] if "baseline_ids" in pairs[0].more else []))
    chosen, rejected, *baseline = _run(model, pairs, "prompt_ids", names, "", device)
    found = [replace(side, quality=under, **_data(pairs, number, device)) for number, (side, under) in enumerate(zip((chosen, rejected), quality, strict=True))]
    return replace(found[0], baseline=baseline[0] if baseline else None), found[1]


def _run(model: PreTrainedModel, pairs: Sequence[Pair], prompt: str, names: Sequence[str], context: str, device: torch.device) -> list[Side]:
    """Each of the pairs' responses of these names under the prompt in column `prompt`; `context` is the middle of their columns' names."""
    layout = packed.lay([(pair.column(prompt), tuple(pair.column(f"{name}_ids") for name in names)) for pair in pairs], device)
    parts = packed.token_logps(model, layout).split(layout.lengths)
    found = []
    for number, name in enumerate(names):
        ref = _padded([pair.column(f"ref_{name}{context}_token_logps") for pair in pairs], device)
        mask = _padded([np.ones(len(pair.column(f"{name}_ids"))) for pair in pairs], device)
        found.append(Side(pad_sequence(list(parts[number :: len(names)]), batch_first=True), ref, mask))
    return found


def _data(pairs: Sequence[Pair], number: int, device: torch.device) -> dict:
    """What the pairs themselves say of the chosen (0) or the rejected (1) response."""
    edits = f"{('chosen', 'rejected')[number]}_edit_mask"
    edit_mask = _padded([pair.more[edits] for pair in pairs], device) if edits in pairs[0].more else None
    scores = {scorer: torch.tensor([pair.scores[scorer][number] for pair in pairs], device=device) for scorer in pairs[0].scores}
    return {"edit_mask": edit_mask, "scores": scores}


def _padded(rows: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    return pad_sequence([torch.from_numpy(row.astype(np.float32)).to(device) for row in rows], batch_first=True)
