"""A model folder to a policy that is shared among the ranks and ready for its first pass.

With FSDP2 rank 0 alone reads the weights, into the memory of its machine. The others build the same modules
around nothing, and get their parts of each weight from rank 0. So no device ever holds the whole model, and a
machine with eight ranks holds it once.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from schemas.errors import UserError
from schemas.forward import compiled
from schemas.forward.load import give_freed_memory_back, prepare
from schemas.forward.precision import DTYPES, lower_buffers
from schemas.model_errors import usable
from schemas.model_files import files_of_model, model_home, view
from schemas.quantization import NONE
from schemas.screen import warn
from schemas.sections import Train
from trainer import adapter_files
from trainer.dist import RankLost, Ranks
from trainer.lora import Adapter, Placed, put_on, remark_on_ties
from trainer.parallel import FSDP, Parallel, share
from trainer.policy import Policy, Precision, checkpoint_layers, read_model


def open_policy(
    path: Path, config: Train, ranks: Ranks, adapter: Adapter | None = None, quantization: str = NONE
) -> Parallel:
    """The policy in a folder, shared as [train] asks; every rank calls it.

    `config`: with dtype resolved. `adapter`: what is trained in the place of the folder's own weights;
    `quantization`: how these are held. Raises UserError where the folder does not load, or cannot be used."""
    precision = Precision(
        compute=config.dtype,
        weights=config.weights,
        base=config.dtype if adapter else config.weights,
        quantization=quantization,
    )
    if ranks.device.type == "cuda":
        torch.cuda.set_device(ranks.device)  # only now: a finished run takes no memory of a GPU
    model = _read(path, precision, config, ranks)
    placed = _put_on(model, adapter, precision, ranks)
    if config.gradient_checkpointing == "true":
        checkpoint_layers(model)
    if compiled.is_wanted(config.compile, ranks.device.type):
        compiled.compile_regions(model, DTYPES[precision.compute], ranks.device)
    buffers_as_read = lower_buffers(model, DTYPES[precision.compute])
    policy = Policy(model, placed, buffers_as_read)
    # Their memory on the CPU. The parameters themselves are moved to the device when they are split, and it
    # would keep what it has got of them for as long as one of them is known here.
    whole = [parameter.detach() for parameter in policy.parameters()]
    parallel = share(policy, config, precision, ranks)
    if isinstance(parallel, FSDP):
        _hand_out(whole, policy)
    del whole
    if ranks.device.type == "cpu" and _is_short_of_memory(parallel, config):
        give_freed_memory_back()
    _prepare(parallel, path, ranks)
    return parallel


def _is_short_of_memory(parallel: Parallel, config: Train) -> bool:
    """True for ways of training that are chosen because memory is short."""
    is_adapted = parallel.policy.adapter is not None
    return parallel.shards or is_adapted or config.gradient_checkpointing == "true"


def _prepare(parallel: Parallel, path: Path, ranks: Ranks) -> None:
    """Try the pass that will be used, in its precision. Raises UserError on every rank where it cannot be."""
    problems: list[str] = []
    try:
        with usable(path):
            parallel.look(prepare)
    except RankLost:
        raise
    except UserError as error:
        problems.append(str(error))
    problems = ranks.gather(problems)
    if problems:
        raise UserError(problems[0], shared=True)


def _put_on(
    model: PreTrainedModel, adapter: Adapter | None, precision: Precision, ranks: Ranks
) -> Placed | None:
    """Put an adapter into the model, with its checkpoint's tensors where it goes on."""
    if adapter is None:
        return None
    placed = put_on(model, adapter, DTYPES[precision.weights])
    if adapter.folder is not None:
        adapter_files.read(model, placed, adapter.folder)
    remark = remark_on_ties(model)
    if remark and ranks.first:
        warn(remark)
    return placed


def _read(path: Path, precision: Precision, config: Train, ranks: Ranks) -> PreTrainedModel:
    """The folder's model as each rank needs it to share it."""
    if ranks.world_size > 1 and config.parallel == "fsdp":
        return _read_on_first(path, precision, ranks)
    return read_model(path, ranks.device, precision)


def _read_on_first(path: Path, precision: Precision, ranks: Ranks) -> PreTrainedModel:
    """The model on the CPU: with its weights on rank 0, with memory that is never touched on the others."""
    read: list[PreTrainedModel] = []

    def read_here() -> tuple[str, list[_Tensor]]:
        read.append(read_model(path, "cpu", precision))
        return read[0].config._attn_implementation, _tensors_of(read[0])

    attention, tensors = ranks.from_first(read_here)
    if ranks.first:
        return read[0]
    model = _empty_model(path, DTYPES[precision.base], attention)
    _make_alike(model, tensors)
    return model


@dataclass(frozen=True)
class _Tensor:
    """A weight or a buffer of a model, and all the `names` under which it stands there."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_weight: bool
    requires_grad: bool


def _tensors_of(model: nn.Module) -> list[_Tensor]:
    """All weights and buffers of a model."""
    names: dict[torch.Tensor, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        names.setdefault(weight, []).append(name)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        names.setdefault(buffer, []).append(name)
    found: list[_Tensor] = []
    for tensor, own in names.items():
        is_weight = isinstance(tensor, nn.Parameter)
        found.append(_Tensor(tuple(own), tuple(tensor.shape), tensor.dtype, is_weight, tensor.requires_grad))
    return found


def _make_alike(model: nn.Module, tensors: list[_Tensor]) -> None:
    """Give a model such weights and buffers, of memory that is never touched.

    What a class builds is not what loading makes of it: a head that the files hold is a weight of its own,
    and what is kept in float32, or not trained, is known only then."""
    for wanted in tensors:
        memory = torch.empty(wanted.shape, dtype=wanted.dtype)
        tensor = nn.Parameter(memory, wanted.requires_grad) if wanted.is_weight else memory
        for name in wanted.names:
            owner, _, own = name.rpartition(".")
            module = model.get_submodule(owner)
            if wanted.is_weight:
                module._parameters[own] = tensor  # type: ignore[assignment]
            else:
                module._buffers[own] = tensor
    assert _tensors_of(model) == tensors, "the class builds other modules than loading does"


def _empty_model(path: Path, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """The modules of a folder's model, without weights of its own."""
    with view(path, files_of_model(model_home(path))) as folder:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with no_init_weights():
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config,
                dtype=dtype,
                attn_implementation=attention,
                trust_remote_code=False,
            )
    model.name_or_path = model.config.name_or_path = str(path)
    model.generation_config = GenerationConfig()
    return model.eval()


@torch.no_grad()
def _hand_out(whole: list[torch.Tensor], policy: nn.Module) -> None:
    """Give every rank its part of rank 0's weights, one weight at a time, and rank 0's buffers.

    `whole` is emptied on the way."""
    parameters = list(policy.parameters())
    assert len(whole) == len(parameters)
    while whole:
        source = whole.pop()
        parameter = parameters.pop()
        assert isinstance(parameter, DTensor)
        own = parameter.to_local()
        part = distribute_tensor(
            source.to(own.device, parameter.dtype), parameter.device_mesh, parameter.placements
        )
        own.copy_(part.to_local())
    for buffer in policy.buffers():
        dist.broadcast(buffer, src=0)
