"""Where each token of a batch lies: prompts with their responses, packed in one row or padded in many.

Everything here is indices and lengths; no model is needed to make a layout.
"""

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from schemas.forward.moving import move_together

Ids = Sequence[int] | np.ndarray
Group = tuple[Ids, Sequence[Ids]]  # a prompt and its responses


@dataclass(frozen=True)
class Ending:
    """A response of which only the last token is predicted, and several tokens are asked about in its place.

    `ids`: what stands before that token, maybe nothing; `alternatives`: at least one token."""

    ids: Ids
    alternatives: Sequence[int]


Response = Ids | Ending
GroupLengths = tuple[int, list[int]]  # tokens fed of a prompt and of each of its responses


@dataclass
class Layout:
    """Groups packed in one row. T tokens are fed, N response tokens are predicted from P of them.

    `ids`, `positions`: (T,), what is fed.
    `predict`: (P,), the index of each token from which something is predicted.
    `targets`: (N,), the response tokens.
    `segments`: for each group the length of its prompt and of each of its responses, as fed.
    `lengths`: (responses,), tokens predicted: one more than are fed, or an ending's alternatives.
    `seen`: where the keys that each segment sees lie in the row, segment after segment.
    `query_cuts`, `key_cuts`: (segments + 1,) int32, where the queries and the keys of each segment begin, and
    where those of the last one end; these three, `longest_query` and `longest_key` (the most queries and keys
    of one segment) are for the flash kernel.
    `sources`: (N,), which of the P each token is predicted from; None where each has its own, so that P = N.
    `attention_cache`: masks that attention makes once for all layers, by their shape.
    `windows`: the windows that attention was asked for."""

    ids: torch.Tensor
    positions: torch.Tensor
    predict: torch.Tensor
    targets: torch.Tensor
    segments: list[GroupLengths]
    lengths: list[int]
    seen: torch.Tensor
    query_cuts: torch.Tensor
    key_cuts: torch.Tensor
    longest_query: int
    longest_key: int
    sources: torch.Tensor | None = None
    attention_cache: dict[Hashable, Any] = field(default_factory=dict)
    windows: set[int] = field(default_factory=set)


# The tensors of every layout, which go to a device together.
INDICES = ("ids", "positions", "predict", "targets", "seen", "query_cuts", "key_cuts")


@dataclass(frozen=True)
class PaddedRows:
    """The same tokens with a row for each response, after its own copy of the prompt, padded at the right.

    `ids`, `mask`: (responses, longest); the mask is 1 where a token is and 0 where padding is.
    `predict`: for each row the positions from which its response is predicted."""

    ids: torch.Tensor
    mask: torch.Tensor
    predict: list[slice]


def pack(groups: Sequence[tuple[Ids, Sequence[Response]]], device: torch.device | str = "cpu") -> Layout:
    """Pack groups in one row. Each has a prompt of at least one token and responses of at least one.

    The responses are all endings, or none of them is."""
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    predict: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    segments: list[GroupLengths] = []
    lengths: list[int] = []
    end = 0  # of the tokens packed so far
    for prompt, responses in groups:
        prompt_length = len(prompt)
        assert prompt_length, "a prompt without tokens predicts nothing"
        ids.append(np.asarray(prompt))
        positions.append(np.arange(prompt_length))
        end += prompt_length
        last_of_prompt = end - 1
        fed_lengths: list[int] = []
        for response in responses:
            fed_ids, predicted = _parts(response)
            fed = len(fed_ids)
            ids.append(fed_ids)
            positions.append(np.arange(prompt_length, prompt_length + fed))
            # The first token is predicted from the prompt's last one, every other from the one before it.
            sources = np.concatenate([[last_of_prompt], np.arange(end, end + fed)])
            predict.append(sources[-1:] if isinstance(response, Ending) else sources)
            targets.append(predicted)
            end += fed
            fed_lengths.append(fed)
            lengths.append(len(predicted))
        segments.append((prompt_length, fed_lengths))
    layout = Layout(
        ids=_to_tensor(ids),
        positions=_to_tensor(positions),
        predict=_to_tensor(predict),
        targets=_to_tensor(targets),
        segments=segments,
        lengths=lengths,
        **_kernel_index(segments),
    )
    if isinstance(groups[0][1][0], Ending):
        layout.sources = torch.repeat_interleave(torch.tensor(lengths))
        assert len(layout.predict) == len(lengths), "endings and whole responses in one row"
    return _moved(layout, torch.device(device))


def _moved(layout: Layout, device: torch.device) -> Layout:
    """The layout, its tensors on the device."""
    names = list(INDICES)
    if layout.sources is not None:
        names.append("sources")
    tensors = [getattr(layout, name) for name in names]
    for name, moved in zip(names, move_together(tensors, device), strict=True):
        setattr(layout, name, moved)
    return layout


def _parts(response: Response) -> tuple[np.ndarray, np.ndarray]:
    """What is fed of a response, and what is predicted."""
    if isinstance(response, Ending):
        fed, predicted = np.asarray(response.ids), np.asarray(response.alternatives)
    else:
        fed, predicted = np.asarray(response)[:-1], np.asarray(response)
    assert len(predicted), "a response without tokens cannot be scored"
    return fed, predicted


def _to_tensor(parts: list[np.ndarray]) -> torch.Tensor:
    """The parts one after the other, as int64."""
    joined = np.concatenate(parts).astype(np.int64)
    return torch.from_numpy(joined)


def _kernel_index(segments: list[GroupLengths]) -> dict[str, Any]:
    """Queries and keys for the kernel, which aligns the last query of a segment with its last key.

    So a prompt and its first response, which are neighbours in the row, are one segment. Every other response
    is one that sees the prompt and itself. Returns the fields of Layout by name."""
    seen: list[np.ndarray] = []
    query_lengths: list[int] = []
    key_lengths: list[int] = []
    begin = 0
    for prompt, responses in segments:
        first, *others = responses
        prompt_keys = np.arange(begin, begin + prompt)
        end = begin + prompt + first
        seen.append(np.arange(begin, end))
        query_lengths.append(prompt + first)
        key_lengths.append(prompt + first)
        for length in others:
            # A response of one token is predicted from its prompt alone: none of it is fed.
            if length:
                seen.append(prompt_keys)
                seen.append(np.arange(end, end + length))
                query_lengths.append(length)
                key_lengths.append(prompt + length)
                end += length
        begin = end
    return {
        "seen": _to_tensor(seen),
        "query_cuts": _cuts(query_lengths),
        "key_cuts": _cuts(key_lengths),
        "longest_query": max(query_lengths),
        "longest_key": max(key_lengths),
    }


def _cuts(lengths: list[int]) -> torch.Tensor:
    """Where runs of these lengths begin, one after the other, and where the last one ends."""
    cuts = [0, *itertools.accumulate(lengths)]
    return torch.tensor(cuts, dtype=torch.int32)


def longest_text(layout: Layout) -> int:
    """The most tokens fed of a prompt with one of its responses."""
    return max(prompt + max(responses) for prompt, responses in layout.segments)


def pad(layout: Layout) -> PaddedRows:
    """Spread a layout over padded rows, for a model that does not take part in packing."""
    rows: list[torch.Tensor] = []
    predict: list[slice] = []
    is_of_endings = layout.sources is not None
    end = 0
    for prompt_length, fed_lengths in layout.segments:
        prompt = layout.ids[end : end + prompt_length]
        end += prompt_length
        for fed in fed_lengths:
            response = layout.ids[end : end + fed]
            end += fed
            rows.append(torch.cat([prompt, response]))
            row_length = prompt_length + fed
            first = row_length - 1 if is_of_endings else prompt_length - 1
            predict.append(slice(first, row_length))
    ones = [torch.ones_like(row) for row in rows]
    return PaddedRows(
        ids=pad_sequence(rows, batch_first=True),
        mask=pad_sequence(ones, batch_first=True),
        predict=predict,
    )
