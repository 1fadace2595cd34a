"""Log-probs of response tokens, from a decoder and a head.

The functions take the two parts of a model and not the model, so that a sharded or an adapted one fits: the
decoder gives hidden states, the head turns those that predict a response token into logits. The head runs in
chunks of rows, so logits of batch x length x vocabulary never exist.

A decoder runs packed if its config names the packed attention, which `load.prepare` sets. Otherwise it runs
padded, which is slower and always right.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel

from schemas.forward.attention import PACKED
from schemas.forward.layout import Layout, longest_text, pad
from schemas.rope import check_length

# float32 logits alive at once: 16 M (64 MiB) on a CPU, since more falls out of its caches; 256 M (1 GiB) on a
# GPU, since fewer leave it idle: a chunk's matrix products and the kernels between them are then long.
_CHUNK_LOGITS = {"cpu": 1 << 24}
_CHUNK_LOGITS_GPU = 1 << 28
_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Head:
    """A model's output projection, and what some families do to their logits after it.

    `load.prepare` refuses a model that does something else."""

    projection: nn.Module
    vocabulary: int  # logits a row
    scale: float | None = None  # Cohere's logit_scale: a factor
    divisor: float | None = None  # Granite's logits_scaling
    softcap: float | None = None  # Gemma's final_logit_softcapping

    @property
    def weight(self) -> torch.Tensor:
        """(vocabulary, hidden) as it is now: its dtype and device are those of the pass."""
        return cast(torch.Tensor, self.projection.weight)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, hidden) to (rows, vocabulary) in float32."""
        # Mamba leaves its hidden states in float32 whatever its weights are, and lowers them here itself.
        if hidden.dtype == torch.float32 and self.weight.dtype in _HALF:
            hidden = hidden.to(self.weight.dtype)
        logits = self.projection(hidden)
        if self.scale:
            logits = logits * self.scale
        if self.divisor:
            logits = logits / self.divisor
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits.float()

    def logps(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """(rows,) float32 log-probs of `targets` (rows,), with all their logits alive at once."""
        return -F.cross_entropy(self.logits(hidden), targets, reduction="none")


def decoder_and_head(model: PreTrainedModel) -> tuple[nn.Module, Head]:
    """The decoder and the head of a loaded model."""
    decoder = model.base_model
    if decoder is model:  # where a family's name for its decoder is not the one that transformers looks for
        decoder = cast(PreTrainedModel, model.get_submodule("model"))
    projection = model.get_output_embeddings()
    config = model.config.get_text_config()
    head = Head(
        projection=projection,
        vocabulary=projection.weight.shape[0],
        scale=getattr(config, "logit_scale", None),
        divisor=getattr(config, "logits_scaling", None),
        softcap=getattr(config, "final_logit_softcapping", None),
    )
    return decoder, head


def token_logps(decoder: nn.Module, head: Head, layout: Layout) -> torch.Tensor:
    """(N,) float32 log-probs of all response tokens, group after group; with a graph where gradients are on.

    The model that the parts are of must have been given to `load.prepare`."""
    hidden = hidden_states(decoder, layout)
    if layout.sources is not None:
        return _alternatives_logps(head, hidden, layout.targets, layout.sources)
    return head_logps(head, hidden, layout.targets)


def hidden_states(decoder: nn.Module, layout: Layout) -> torch.Tensor:
    """(P, hidden) last hidden states of the positions that predict.

    Raises UserError where a text is so long that its numbers would depend on the batch."""
    config = cast(PreTrainedConfig, decoder.config)
    check_length(config, longest_text(layout))
    if config._attn_implementation != PACKED:
        return _hidden_states_padded(decoder, layout)
    # A mask of four dimensions is passed through as it is; the packed attention does not look at it.
    no_mask = torch.zeros(1, 1, 1, 1, device=layout.ids.device)
    output = decoder(
        layout.ids[None],
        position_ids=layout.positions[None],
        attention_mask=no_mask,
        use_cache=False,
        packed=layout,
    )
    return output.last_hidden_state[0].index_select(0, layout.predict)


def _hidden_states_padded(decoder: nn.Module, layout: Layout) -> torch.Tensor:
    """The same by the model's own attention, with a row for each response."""
    rows = pad(layout)
    output = decoder(rows.ids, attention_mask=rows.mask, use_cache=False)
    parts: list[torch.Tensor] = []
    for row, predict in zip(output.last_hidden_state, rows.predict, strict=True):
        parts.append(row[predict])
    return torch.cat(parts)


def head_logps(head: Head, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(N,) float32 log-probs of `targets` (N,) from the hidden states (N, hidden) that predict them.

    `head_rows` of them go through the head at a time."""
    rows = head_rows(head, hidden.device)
    if len(targets) <= rows:
        return head.logps(hidden, targets)
    chunk_logps = head.logps
    if torch.is_grad_enabled():
        # The backward makes a chunk's logits again, so that one chunk of them is alive at a time.
        chunk_logps = functools.partial(checkpoint, head.logps, use_reentrant=False)
    parts: list[torch.Tensor] = []
    for hidden_chunk, target_chunk in zip(hidden.split(rows), targets.split(rows), strict=True):
        parts.append(chunk_logps(hidden_chunk, target_chunk))
    return torch.cat(parts)


def _alternatives_logps(
    head: Head,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    sources: torch.Tensor,
) -> torch.Tensor:
    """(N,) float32 log-probs of `targets` (N,), each predicted from the row `sources` (N,) of `hidden`.

    A row goes through the head once for all its targets. `sources` are in ascending order."""
    rows = head_rows(head, hidden.device)
    parts: list[torch.Tensor] = []
    for begin in range(0, len(hidden), rows):
        logps = head.logits(hidden[begin : begin + rows]).log_softmax(-1)
        is_here = (sources >= begin) & (sources < begin + rows)
        parts.append(logps[sources[is_here] - begin, targets[is_here]])
    return torch.cat(parts)


@contextlib.contextmanager
def chunks_on_meta(device_type: str) -> Iterator[None]:
    """Let the meta device take chunks as large as a device of this type takes them."""
    _CHUNK_LOGITS["meta"] = _CHUNK_LOGITS.get(device_type, _CHUNK_LOGITS_GPU)
    try:
        yield
    finally:
        del _CHUNK_LOGITS["meta"]


def head_rows(head: Head, device: torch.device) -> int:
    """How many rows of logits are alive at once; at least 1."""
    limit = _CHUNK_LOGITS.get(device.type, _CHUNK_LOGITS_GPU)
    return max(1, limit // head.vocabulary)
