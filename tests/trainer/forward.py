"""The trainer's forward pass on the CPU, from pairs to sides."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from schemas.sections import Train
from trainer.dist import Ranks
from trainer.losses.side import Side
from trainer.model import micro_batch, quality_logps, sides
from trainer.opening import open_policy
from trainer.pairs import Pair
from trainer.parallel import Parallel

ALONE = Ranks(0, 1, torch.device("cpu"))


def policy_in(folder: Path, **settings: Any) -> Parallel:
    """The policy of a model folder on one rank, in float32 unless [train]'s settings say otherwise."""
    return open_policy(folder, Train(**{"dtype": "float32"} | settings), ALONE)


def sides_of(policy: PreTrainedModel, pairs: Sequence[Pair]) -> tuple[Side, Side]:
    """Chosen and rejected of some pairs, with their graph."""
    batch = micro_batch(pairs, torch.device("cpu"))
    return sides(policy, batch, quality_logps(policy, batch))
