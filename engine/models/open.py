"""Where copies of a model run on this machine, and how one is opened."""

from typing import cast

from engine.models import Model
from engine.models.spec import ModelSpec, ResolvedModel
from schemas.devices import check_device
from schemas.errors import UserError
from schemas.loading import no_garbage
from schemas.manifest import Facts


def devices(wanted: str) -> list[str]:
    """The devices that `model.device` means here: `auto` every GPU or else the CPU, `cuda` every GPU."""
    with no_garbage():
        import torch

    check_device(wanted)
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if wanted in ("auto", "cuda"):
        return gpus or ["cpu"]
    return [wanted]


def places(spec: ModelSpec) -> list[str]:
    """Where copies of a model run side by side: one a device.

    With vLLM one for every tensor_parallel_size × pipeline_parallel_size GPUs, written `cuda:0,1`. Raises
    UserError where there are fewer."""
    here = devices(spec.config.device)
    each = gpus_of_an_engine(spec)
    if each == 1 or here == ["cpu"]:
        return here
    if len(here) < each:
        raise UserError(
            f"[{spec.section}.vllm] asks for {each} GPUs for one engine "
            f"(tensor_parallel_size × pipeline_parallel_size), but there are {len(here)} here"
        )
    numbers = [device.removeprefix("cuda:") for device in here]
    groups: list[str] = []
    for begin in range(0, len(here) - each + 1, each):
        groups.append(f"cuda:{','.join(numbers[begin : begin + each])}")
    return groups


def gpus_of_an_engine(spec: ModelSpec) -> int:
    """How many GPUs one copy of a model takes."""
    if spec.backend != "vllm":
        return 1
    arguments = spec.config.vllm
    return int(arguments.get("tensor_parallel_size", 1)) * int(arguments.get("pipeline_parallel_size", 1))


def open_model(
    model: ResolvedModel,
    place: str,
    threads: int,
    planned: Facts | None = None,
) -> Model:
    """The model at a place of `places`; where its spec says so a reward model, which stands for one.

    `planned`: the digests that the model must still have after it was loaded (UserError where not)."""
    if model.spec.backend == "vllm":
        from engine.models.vllm import VLLM

        engine = VLLM(
            model,
            place=place,
            threads=threads,
            planned=planned,
        )
        return engine.start()
    if model.spec.is_reward:
        with no_garbage():
            from engine.models.reward import RewardModel

        rates = RewardModel(
            model,
            place=place,
            threads=threads,
            planned=planned,
        )
        return cast(Model, rates)  # Context.open_reward_model gives it its type back
    with no_garbage():
        from engine.models.hf import HF

    return HF(
        model,
        place=place,
        threads=threads,
        planned=planned,
    )
