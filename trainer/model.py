"""Pairs through the policy to two Sides, and to the loss of training.

A micro-batch is put together on the CPU and goes to the device in one copy. The prompt is computed once for
all its responses. A loss that asks for the quality context takes one more pass, without gradient, before the
other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from schemas.forward.layout import INDICES, Layout, pack
from schemas.forward.logps import decoder_and_head, head_logps, head_rows, hidden_states, token_logps
from schemas.forward.moving import move_together
from trainer.head_loss import summed_loss
from trainer.losses.side import Side
from trainer.pairs import Pair

_SIDES = ("chosen", "rejected")

# (B,) losses and the two sides they are of.
Observer = Callable[[torch.Tensor, Side, Side], None]


@dataclass(frozen=True)
class MicroBatch:
    """B pairs on the device.

    `responses`: those that run together under a prompt, by name; `layout`: theirs, pair after pair;
    `quality`: the layout of chosen and rejected under the quality prompt, where the loss asks for it;
    `columns`: (B, T) float32 by name, 0 to the right of a response's last token; `scores`: scorer -> (B, 2),
    of chosen and rejected."""

    pairs: Sequence[Pair]
    responses: tuple[str, ...]
    layout: Layout
    quality: Layout | None
    columns: dict[str, torch.Tensor]
    scores: dict[str, torch.Tensor]

    def rows(self, column: str, response: str, span: slice) -> torch.Tensor:
        """A column's rows of some pairs, as wide as the longest `response` of these."""
        width = max(len(pair.column(f"{response}_ids")) for pair in self.pairs[span])
        return self.columns[column][span, :width].contiguous()


def micro_batch(pairs: Sequence[Pair], device: torch.device) -> MicroBatch:
    """Pack some pairs, all of which hold the same columns, and bring them to the device in one copy."""
    more = pairs[0].more
    responses: tuple[str, ...] = _SIDES
    if "baseline_ids" in more:
        responses = (*_SIDES, "baseline")
    layout = _layout(pairs, "prompt_ids", responses)
    layouts = [layout]
    quality: Layout | None = None
    if "quality_prompt_ids" in more:
        quality = _layout(pairs, "quality_prompt_ids", _SIDES)
        layouts.append(quality)

    columns = _columns(pairs, responses)
    scores = _scores(pairs)
    tensors = [getattr(part, name) for part in layouts for name in INDICES]
    tensors += columns.values()
    tensors += scores.values()
    moved = iter(move_together(tensors, device))
    for part in layouts:
        for name in INDICES:
            setattr(part, name, next(moved))
    return MicroBatch(
        pairs=pairs,
        responses=responses,
        layout=layout,
        quality=quality,
        columns={name: next(moved) for name in columns},
        scores={scorer: next(moved) for scorer in scores},
    )


def _layout(pairs: Sequence[Pair], prompt: str, responses: Sequence[str]) -> Layout:
    """The pairs' responses of these names under the prompt in column `prompt`, on the CPU."""
    groups: list[tuple[np.ndarray, list[np.ndarray]]] = []
    for pair in pairs:
        response_ids = [pair.column(f"{name}_ids") for name in responses]
        groups.append((pair.column(prompt), response_ids))
    return pack(groups)


def _columns(pairs: Sequence[Pair], responses: Sequence[str]) -> dict[str, torch.Tensor]:
    """What the pairs bring for each response, padded: reference log-probs, masks, edit masks."""
    more = pairs[0].more
    columns: dict[str, torch.Tensor] = {}
    for name in responses:
        columns[f"{name}_mask"] = _padded([np.ones(len(pair.column(f"{name}_ids"))) for pair in pairs])
        wanted = [f"ref_{name}_token_logps"]
        for column in (f"ref_{name}_quality_token_logps", f"{name}_edit_mask"):
            if column in more:
                wanted.append(column)
        for column in wanted:
            columns[column] = _padded([pair.column(column) for pair in pairs])
    return columns


def _scores(pairs: Sequence[Pair]) -> dict[str, torch.Tensor]:
    """(B, 2) scores of chosen and rejected, by the scorer's name."""
    scores: dict[str, torch.Tensor] = {}
    for scorer in pairs[0].scores:
        scores[scorer] = torch.tensor([pair.scores[scorer] for pair in pairs])
    return scores


def _padded(rows: Sequence[np.ndarray]) -> torch.Tensor:
    """(B, T) float32, 0 to the right of each row's end."""
    tensors = [torch.from_numpy(row.astype(np.float32)) for row in rows]
    return pad_sequence(tensors, batch_first=True)


def sides(
    model: PreTrainedModel, batch: MicroBatch, quality: Sequence[torch.Tensor] = ()
) -> tuple[Side, Side]:
    """Chosen and rejected of B pairs, each (B, T) with a T of its own, and what else the loss needs.

    `quality`: what `quality_logps` says of the batch."""
    decoder, head = decoder_and_head(model)
    logps = token_logps(decoder, head, batch.layout).split(batch.layout.lengths)
    every_pair = slice(0, len(batch.pairs))
    return _sides(batch, logps, quality, every_pair)


@torch.no_grad()
def quality_logps(model: PreTrainedModel, batch: MicroBatch) -> Sequence[torch.Tensor]:
    """The log-probs under the quality prompt, by the policy as it is now.

    They are (T,) each, chosen and rejected, pair after pair. Empty where the loss does not ask for them."""
    if batch.quality is None:
        return ()
    decoder, head = decoder_and_head(model)
    return token_logps(decoder, head, batch.quality).split(batch.quality.lengths)


def training_loss(
    model: PreTrainedModel,
    batch: MicroBatch,
    quality: Sequence[torch.Tensor],
    loss: Callable[[Side, Side], torch.Tensor],
    scale: float,
    observe: Observer,
) -> torch.Tensor:
    """The scalar `scale` times the pairs' summed loss; call `backward()` on it.

    The gradients of the head are made here, chunk by chunk (trainer/head_loss.py). A chunk has whole pairs,
    and a pair's loss must depend on its own tokens alone. `quality`: what `quality_logps` says of the batch.
    `observe` is given the losses (without gradient) and the sides of each chunk."""
    decoder, head = decoder_and_head(model)
    hidden = hidden_states(decoder, batch.layout)
    chunks = list(_chunks(batch, head_rows(head, hidden.device)))
    rows = [chunk.rows for chunk in chunks]
    targets = batch.layout.targets.split(rows)

    def loss_of_chunk(number: int, chunk_hidden: torch.Tensor) -> torch.Tensor:
        chunk = chunks[number]
        logps = head_logps(head, chunk_hidden, targets[number]).split(chunk.lengths)
        chosen, rejected = _sides(batch, logps, quality, chunk.span)
        losses = loss(chosen, rejected)
        observe(losses.detach(), chosen, rejected)
        return losses.sum() * scale

    weights = [weight for weight in head.projection.parameters() if weight.requires_grad]
    return summed_loss(loss_of_chunk, rows, hidden, weights)


@dataclass(frozen=True)
class _Chunk:
    """The pairs of a micro-batch at `span`. `lengths`: tokens predicted of each of their responses."""

    span: slice
    lengths: list[int]

    @property
    def rows(self) -> int:
        """Rows of logits."""
        return sum(self.lengths)


def _chunks(batch: MicroBatch, limit: int) -> Iterator[_Chunk]:
    """Chunks of whole pairs with at most `limit` rows of logits."""
    each = len(batch.responses)
    lengths = batch.layout.lengths
    rows_of_pairs = [sum(lengths[at : at + each]) for at in range(0, len(lengths), each)]
    for begin, end in whole_ranges(rows_of_pairs, limit):
        yield _Chunk(slice(begin, end), lengths[begin * each : end * each])


def whole_ranges(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Ranges of consecutive items whose sizes together are at most `limit`; a larger item is alone."""
    ranges: list[tuple[int, int]] = []
    begin = 0
    for end in range(1, len(sizes) + 1):
        if end == len(sizes) or sum(sizes[begin : end + 1]) > limit:
            ranges.append((begin, end))
            begin = end
    return ranges


def _sides(
    batch: MicroBatch,
    logps: Sequence[torch.Tensor],
    quality: Sequence[torch.Tensor],
    span: slice,
) -> tuple[Side, Side]:
    """The sides of the pairs at `span`.

    `logps`: (T,) of each of their responses, pair after pair; `quality`: as `quality_logps`, of all pairs."""
    each = len(batch.responses)
    bare: dict[str, Side] = {}
    for number, name in enumerate(batch.responses):
        bare[name] = _side(batch, logps[number::each], name, span)
    full: list[Side] = []
    for number, name in enumerate(_SIDES):
        changes: dict[str, Any] = {"scores": {}}
        for scorer, scores in batch.scores.items():
            changes["scores"][scorer] = scores[span, number].contiguous()
        if f"{name}_edit_mask" in batch.columns:
            changes["edit_mask"] = batch.rows(f"{name}_edit_mask", name, span)
        if quality:
            own = quality[number :: len(_SIDES)][span]
            changes["quality"] = _side(
                batch,
                own,
                name,
                span,
                context="_quality",
            )
        full.append(replace(bare[name], **changes))
    chosen, rejected = full
    return replace(chosen, baseline=bare.get("baseline")), rejected


def _side(
    batch: MicroBatch, logps: Sequence[torch.Tensor], name: str, span: slice, context: str = ""
) -> Side:
    """The response `name` of each pair, with the policy's log-probs and the cached ones of this context."""
    return Side(
        token_logps=pad_sequence(list(logps), batch_first=True),
        ref_token_logps=batch.rows(f"ref_{name}{context}_token_logps", name, span),
        mask=batch.rows(f"{name}_mask", name, span),
    )
