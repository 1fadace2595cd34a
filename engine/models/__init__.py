"""The model: two verbs, token ids in and token ids out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.text import Text
from schemas.recipe import Recipe

Ids = Sequence[int]


@dataclass(frozen=True)
class Sampling:
    """vLLM's own names. `temperature` 0 is greedy; `top_p` 1 keeps every token."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256


@dataclass(frozen=True)
class Sample:
    """One sampled response: its ids (the stop token included, where it came to one), the model's own log-prob of each before temperature,
    and `finish_reason`: stop or length."""

    ids: list[int]
    token_logps: np.ndarray
    finish_reason: str


class Model(Protocol):
    text: Text

    def generate(self, prompts: Sequence[Ids], seeds: Sequence[Sequence[int]], sampling: Sampling) -> list[list[Sample]]:
        """`sampling.n` samples of each prompt; sample k of prompt i is a function of its ids and `seeds[i][k]`, never of the batch."""
        ...

    def logprobs(self, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]]) -> list[list[np.ndarray]]:
        """float32 log-prob, in nat, of every token of every response under its prompt."""
        ...


def devices(wanted: str) -> list[str]:
    """The devices that `model.device` means here: `auto` is every GPU there is, else the CPU; `cuda` every GPU."""
    import torch

    from schemas.packed import check_device

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    check_device(wanted)
    if wanted in ("auto", "cuda"):
        return gpus or ["cpu"]
    return [wanted]


def open_model(recipe: Recipe, device: str, report: Callable[[int], None], planned: dict[str, str] | None) -> Model:
    """The recipe's model on a device; `report` is told of responses as they are done, `planned` are the digests it must have."""
    from engine.models.hf import HF

    return HF(recipe, device, report, planned)
