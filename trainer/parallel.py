"""How ranks share the training of one policy: alone, DDP, or FSDP2. One class each, one small interface.

- `Alone`: one rank. Nothing is shared.
- `DDP`: every rank holds all weights; gradients are summed over the ranks in buckets, while the backward pass
  is still making others (torch's DistributedDataParallel).
- `FSDP`: weights, gradients and the optimizer's state are split over the ranks (PyTorch's `fully_shard`). A
  layer's weights are gathered while it runs. With `shard_size` the ranks are split into groups that each
  hold all weights (HSDP).

Under the last two every rank must run the same number of passes: trainer/step.py gives a rank that has fewer
micro-batches than another some of weight zero. Both average gradients over the ranks, so a rank's loss is
scaled by the number of ranks.
"""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from schemas.errors import UserError
from schemas.forward.precision import DTYPES, compute_dtypes, layers_of
from schemas.sections import Train
from trainer.dist import Ranks
from trainer.policy import Policy, Precision, lower_weights

T = TypeVar("T")


class Parallel:
    """One rank alone, and what the other ways have in common with it."""

    shards = False  # True where every pass is a collective call
    shard = 0  # which part of each weight this rank holds, by its number

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @torch.no_grad()
    def look(self, work: Callable[[PreTrainedModel], T]) -> T:
        """A pass without gradient."""
        return self.policy(work)

    def training_pass(self, work: Callable[[PreTrainedModel], T], *, last: bool) -> T:
        """A pass that a `backward` follows. `last`: the step's last one, after which gradients are whole."""
        del last
        return self.policy(work)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """The gradients of a loss of `training_pass`, added to those of the step so far."""
        del last
        loss.backward()

    def clip(self, limit: float) -> torch.Tensor:
        """Scale all gradients down so that their norm is at most `limit`; returns the norm before."""
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), limit)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the training's state as it would be on one rank alone. Every rank must ask."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def forget_step(self) -> None:
        """Drop what a step that failed has left: its gradients, and passes that were not finished."""
        self.policy.zero_grad(set_to_none=True)


class DDP(Parallel):
    """Every rank holds all weights."""

    def __init__(self, policy: Policy, config: Train, device: torch.device) -> None:
        super().__init__(policy)
        self._ddp = DistributedDataParallel(
            policy,
            device_ids=[device.index] if device.type == "cuda" else None,
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=_may_skip_weights(policy.model),
        )
        if config.reduce_dtype == "bfloat16":
            self._ddp.register_comm_hook(None, _in_bfloat16)

    def training_pass(self, work: Callable[[PreTrainedModel], T], *, last: bool) -> T:
        """Gradients of the last pass alone are exchanged, with those added up before."""
        with self._sync(last):
            return self._ddp(work)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Buckets of gradients are summed over the ranks as soon as they are full."""
        with self._sync(last):
            loss.backward()

    def _sync(self, last: bool) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if last else self._ddp.no_sync()


class FSDP(Parallel):
    """Weights, gradients and the optimizer's state are split over the ranks."""

    shards = True

    def __init__(self, policy: Policy, config: Train, precision: Precision, ranks: Ranks) -> None:
        super().__init__(policy)
        size = shard_size(config, ranks)
        if size == ranks.world_size:
            mesh = init_device_mesh(ranks.device.type, (size,), mesh_dim_names=("shard",))
        else:
            groups = ranks.world_size // size
            mesh = init_device_mesh(ranks.device.type, (groups, size), mesh_dim_names=("replicate", "shard"))
        self._has_groups = size != ranks.world_size
        self.shard = mesh.get_local_rank("shard")
        reduce_dtype = DTYPES[config.reduce_dtype]
        dtypes = compute_dtypes(policy.model, DTYPES[precision.compute])
        for module, dtype in _units(policy, dtypes):
            fully_shard(
                module,
                mesh=mesh,
                reshard_after_forward=None if module is policy else config.reshard_after_forward,
                mp_policy=MixedPrecisionPolicy(
                    param_dtype=dtype,
                    reduce_dtype=reduce_dtype,
                    cast_forward_inputs=False,
                ),
            )
        self._root.set_reduce_scatter_unused_params(_may_skip_weights(policy.model))

    @torch.no_grad()
    def look(self, work: Callable[[PreTrainedModel], T]) -> T:
        """All weights are split again afterwards: a backward pass, which does it, is missing.

        Until then a module's parameters are the gathered ones, of which no optimizer must be made."""
        try:
            return self.policy(work)
        finally:
            for module in self.policy.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    def training_pass(self, work: Callable[[PreTrainedModel], T], *, last: bool) -> T:
        """Gradients of each pass are split at once: a whole set of them would take as much as the weights."""
        root = self._root
        root.set_is_last_backward(last)
        if self._has_groups:
            root.set_requires_all_reduce(last)
        return self.policy(work)

    def forget_step(self) -> None:
        """Also the state of passes that were not finished."""
        self._root.reset_iter_state()
        super().forget_step()

    @property
    def _root(self) -> FSDPModule:
        root: nn.Module = self.policy
        assert isinstance(root, FSDPModule)
        return root


def share(policy: Policy, config: Train, precision: Precision, ranks: Ranks) -> Parallel:
    """Share a policy, the same on every rank, as [train] asks. Raises UserError where that cannot be done."""
    if ranks.world_size == 1:
        lower_weights(policy, precision)
        return Parallel(policy)
    if config.parallel == "fsdp":
        return FSDP(policy, config, precision, ranks)
    lower_weights(policy, precision)
    return DDP(policy, config, ranks.device)


def _in_bfloat16(
    group: Any,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[torch.Tensor]:
    """Add a bucket of gradients up in bfloat16: torch's own hook. Under its own name gloo refuses it."""
    added: torch.futures.Future[torch.Tensor] = default_hooks.bf16_compress_hook(group, bucket)
    return added


def like(tensor: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """This rank's part of `whole`, shared as `tensor` is; every rank gives the same `whole`."""
    if not isinstance(tensor, DTensor):
        return whole.to(tensor.device)
    return distribute_tensor(
        whole.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None
    )


def unsplit_remark(config: Train, ranks: Ranks) -> str:
    """What a recipe says of weights that are split, where they are not; empty where that is as it says."""
    if ranks.world_size == 1 and config.parallel == "fsdp":
        return 'train.parallel = "fsdp" on one rank splits nothing: start several with torchrun'
    if config.shard_size and config.parallel != "fsdp":
        return (
            f"train.shard_size = {config.shard_size} splits nothing, since train.parallel = "
            f'"{config.parallel}": it goes with "fsdp"'
        )
    return ""


def shard_size(config: Train, ranks: Ranks) -> int:
    """Ranks among which FSDP splits the weights. Raises UserError where the ranks are no multiple of it."""
    if config.parallel != "fsdp" or ranks.world_size == 1:
        return 1
    size = config.shard_size or ranks.world_size
    if ranks.world_size % size:
        raise UserError(
            f"train.shard_size = {size}, but there are {ranks.world_size} ranks, which is no multiple of it: "
            "set it to the GPUs of one machine, or to 0 to split the weights over all ranks",
            shared=True,
        )
    return size


def _units(
    policy: Policy, dtypes: dict[torch.Tensor, torch.dtype]
) -> list[tuple[nn.Module, torch.dtype | None]]:
    """The modules that are split one by one, inner ones first, and the dtype that each computes in.

    They are the layers, the embeddings and the policy itself. A unit has one dtype, so modules that hold
    weights of another dtype than most are units of their own, and so is each module within them that holds
    weights. Raises UserError where one module holds weights of two dtypes."""
    main = _main_dtype(dtypes)
    units: dict[nn.Module, torch.dtype | None] = {}
    for name, module in policy.model.named_modules():
        dtype = _own_dtype(name, module, dtypes)
        if dtype is not None and dtype != main:
            for inner_name, inner in module.named_modules(prefix=name):
                own = _own_dtype(inner_name, inner, dtypes)
                if own is not None:
                    units[inner] = own
    for module in (*layers_of(policy.model), *_untied_embeddings(policy), policy):
        units.setdefault(module, main)
    inner_first = reversed(list(policy.modules()))
    return [(module, units[module]) for module in inner_first if module in units]


def _untied_embeddings(policy: Policy) -> list[nn.Module]:
    """The embeddings, if no other module has their weight.

    In the policy's own unit their gradient would wait for the head's, and both be exchanged at once."""
    embeddings = policy.model.get_input_embeddings()
    places = [weight for _, weight in policy.named_parameters(remove_duplicate=False)]
    has_others = sum(weight is embeddings.weight for weight in places) > 1
    return [] if has_others else [embeddings]


def _own_dtype(name: str, module: nn.Module, dtypes: dict[torch.Tensor, torch.dtype]) -> torch.dtype | None:
    """The dtype that the weights of a module itself are computed in; None where it has none."""
    found: dict[torch.dtype, str] = {}
    for own_name, parameter in module.named_parameters(recurse=False):
        if parameter in dtypes:
            found.setdefault(dtypes[parameter], f"{name}.{own_name}")
    if len(found) > 1:
        (one, its_name), (other, other_name) = list(found.items())[:2]
        raise UserError(
            f"{its_name} is computed in {_plain(one)} and {other_name} beside it in {_plain(other)}, and "
            'train.parallel = "fsdp" splits what a module holds as one: set train.parallel = "ddp" or '
            'train.dtype = "float32"'
        )
    return next(iter(found), None)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _main_dtype(dtypes: dict[torch.Tensor, torch.dtype]) -> torch.dtype | None:
    """The dtype that most weights are computed in; None where there is no floating-point weight."""
    elements: dict[torch.dtype, int] = {}
    for tensor, dtype in dtypes.items():
        if isinstance(tensor, nn.Parameter):
            elements[dtype] = elements.get(dtype, 0) + tensor.numel()
    return max(elements, key=elements.__getitem__, default=None)


def _may_skip_weights(model: PreTrainedModel) -> bool:
    """True for a model of which a pass may leave weights out: experts, or a tower for pictures."""
    text = model.config.get_text_config()
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return text is not model.config or any(getattr(text, name, None) for name in names)
