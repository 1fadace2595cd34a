"""The policy: load it, and run pairs through it to two Sides."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from schemas.forward.layout import Layout, pack
from schemas.forward.load import load as load_model
from schemas.forward.logps import head_logps, head_rows, hidden_states, split, token_logps
from trainer.data import Pair
from trainer.losses.side import Side


def load(path: Path, device: torch.device, gradient_checkpointing: bool) -> PreTrainedModel:
    """A policy in float32 (autocast lowers the arithmetic where bfloat16 is wanted, not the weights: updates of 5e-7 would vanish in them)."""
    model = load_model(path, torch.float32, device)
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
    quality = _quality(model, pairs, device)
    layout = _lay(pairs, "prompt_ids", _names(pairs), device)
    decoder, head = split(model)
    logps = token_logps(decoder, head, layout)
    return _sides(pairs, logps.split(layout.lengths), quality, device)


def backward(
    model: PreTrainedModel,
    pairs: Sequence[Pair],
    device: torch.device,
    loss: Callable[[Side, Side], torch.Tensor],
    scale: float,
) -> Iterator[tuple[torch.Tensor, Side, Side]]:
    """Adds `scale` times the gradient of the pairs' summed loss to the weights; gives, some pairs at a time, (B,) losses and the two sides.

    The head's logits of some whole pairs give their loss and its gradient at once and are gone before the next ones are made: three matrix products
    a chunk where going through all pairs twice takes four. A pair's loss must depend on its own tokens alone. To be iterated to its end."""
    quality = _quality(model, pairs, device)
    names = _names(pairs)
    layout = _lay(pairs, "prompt_ids", names, device)
    decoder, head = split(model)
    hidden = hidden_states(decoder, layout)
    each = [sum(layout.lengths[at : at + len(names)]) for at in range(0, len(layout.lengths), len(names))]
    cuts = _whole(each, head_rows(head, hidden.device))
    rows = [sum(each[begin:end]) for begin, end in cuts]
    leaves = [leaf.requires_grad_() for leaf in hidden.detach().split(rows)]
    for (begin, end), leaf, targets in zip(cuts, leaves, layout.targets.split(rows), strict=True):
        parts = head_logps(head, leaf, targets).split(layout.lengths[begin * len(names) : end * len(names)])
        chosen, rejected = _sides(pairs[begin:end], parts, quality[begin:end], device)
        found = loss(chosen, rejected)
        (found.sum() * scale).backward()
        yield found.detach(), chosen, rejected
    hidden.backward(torch.cat([leaf.grad for leaf in leaves]))


def _whole(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Ranges of consecutive items whose sizes together are at most `limit`, a larger one alone."""
    cuts, begin = [], 0
    for end in range(1, len(sizes) + 1):
        if end == len(sizes) or sum(sizes[begin : end + 1]) > limit:
            cuts.append((begin, end))
            begin = end
    return cuts


def _names(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """The responses that run together under the prompt."""
    return ("chosen", "rejected", "baseline") if "baseline_ids" in pairs[0].more else ("chosen", "rejected")


def _lay(pairs: Sequence[Pair], prompt: str, names: Sequence[str], device: torch.device) -> Layout:
    """The pairs' responses of these names under the prompt in column `prompt`."""
    return pack(
        [(pair.column(prompt), tuple(pair.column(f"{name}_ids") for name in names)) for pair in pairs], device
    )


@torch.no_grad()
def _quality(
    model: PreTrainedModel, pairs: Sequence[Pair], device: torch.device
) -> list[tuple[torch.Tensor, ...]]:
    """For each pair the (T,) log-probs of its two responses under the quality prompt, by the policy as it is now; nothing where the loss needs none."""
    if "quality_prompt_ids" not in pairs[0].more:
        return [()] * len(pairs)
    layout = _lay(pairs, "quality_prompt_ids", ("chosen", "rejected"), device)
    decoder, head = split(model)
    parts = token_logps(decoder, head, layout).split(layout.lengths)
    return list(zip(parts[0::2], parts[1::2], strict=True))


def _sides(
    pairs: Sequence[Pair],
    parts: Sequence[torch.Tensor],
    quality: Sequence[tuple[torch.Tensor, ...]],
    device: torch.device,
) -> tuple[Side, Side]:
    """From log-probs to sides: `parts` are the responses' of `_names`, pair after pair, each (T,)."""
    names = _names(pairs)

    def side(token_logps: Sequence[torch.Tensor], name: str, context: str = "") -> Side:
        ref = _padded([pair.column(f"ref_{name}{context}_token_logps") for pair in pairs], device)
        mask = _padded([np.ones(len(pair.column(f"{name}_ids"))) for pair in pairs], device)
        return Side(pad_sequence(list(token_logps), batch_first=True), ref, mask)

    bare = [side(parts[number :: len(names)], name) for number, name in enumerate(names)]
    under = [
        side([both[number] for both in quality], name, "_quality") if quality[0] else None
        for number, name in enumerate(names[:2])
    ]
    chosen, rejected = (
        replace(bare[number], quality=under[number], **_data(pairs, number, device)) for number in (0, 1)
    )
    return replace(chosen, baseline=bare[2] if len(bare) > 2 else None), rejected


def _data(pairs: Sequence[Pair], number: int, device: torch.device) -> dict:
    """What the pairs themselves say of the chosen (0) or the rejected (1) response."""
    edits = f"{('chosen', 'rejected')[number]}_edit_mask"
    edit_mask = _padded([pair.more[edits] for pair in pairs], device) if edits in pairs[0].more else None
    scores = {
        scorer: torch.tensor([pair.scores[scorer][number] for pair in pairs], device=device)
        for scorer in pairs[0].scores
    }
    return {"edit_mask": edit_mask, "scores": scores}


def _padded(rows: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    return pad_sequence(
        [torch.from_numpy(row.astype(np.float32)).to(device) for row in rows], batch_first=True
    )
