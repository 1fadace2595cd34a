"""The trainer's forward pass on the CPU, from pairs to sides."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from schemas.forward.logps import decoder_and_head
from trainer.losses.side import Side
from trainer.model import micro_batch, sides
from trainer.pairs import Pair


def sides_of(policy: PreTrainedModel, pairs: Sequence[Pair]) -> tuple[Side, Side]:
    """Chosen and rejected of some pairs, with their graph."""
    decoder, head = decoder_and_head(policy)
    return sides(decoder, head, micro_batch(pairs, torch.device("cpu")))
