"""The optimizers of [train], and their state as plain tensors.

    adamw        torch's, fused
    adamw_8bit   torchao's: both moments in 8 bits, blocks of 256 with a scale each (arXiv 2110.02861)
    rmsprop      torch's

With `weights = "bfloat16"` there is no float32 copy of a weight: torchao's optimizers compute an update in
float32 and round the sum to bfloat16 at random, up as often as it lies near the upper neighbour. Rounded to
the nearest, updates of 5e-7 would all vanish. Gradients are in bfloat16 too, and those of a step's passes are
added up in it: the sum, and the norm by which it is clipped, are rounded by how the batch is cut.

A checkpoint holds moments as float tensors whatever they are kept in: quantising what was dequantised gives
the same codes again, and the state then fits any number of ranks.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from schemas.errors import UserError
from schemas.sections import Train
from trainer.parallel import like

_NEEDS_TORCHAO = 'needs torchao: pip install "prefmill[torchao]"'


def make_optimizer(module: nn.Module, config: Train) -> torch.optim.Optimizer:
    """The optimizer of [train] for what is trained of a module; weight decay is on matrices alone.

    Raises UserError where it needs a package that is not installed."""
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": config.weight_decay},
        {"params": [], "weight_decay": 0.0},
    ]
    for parameter in module.parameters():
        if parameter.requires_grad:
            is_matrix = parameter.dim() > 1
            groups[0 if is_matrix else 1]["params"].append(parameter)
    # An adapter may have no vectors.
    groups = [group for group in groups if group["params"]]
    rounds_at_random = config.weights == "bfloat16"
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=config.learning_rate)
    first, second = config.betas
    if config.optimizer == "adamw_8bit" or rounds_at_random:
        return _of_torchao(groups, config, rounds_at_random)
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(first, second),
        fused=True,  # takes a quarter of the time, on a CPU too
    )


def _of_torchao(groups: list[dict[str, Any]], config: Train, rounds_at_random: bool) -> torch.optim.Optimizer:
    wanted = 'train.weights = "bfloat16"' if rounds_at_random else f'train.optimizer = "{config.optimizer}"'
    try:
        from torchao.optim import AdamW8bit, _AdamW
    except ImportError:
        raise UserError(f"{wanted} {_NEEDS_TORCHAO}") from None
    kind = AdamW8bit if config.optimizer == "adamw_8bit" else _AdamW
    made: torch.optim.Optimizer = _adjusted(kind)(
        groups,
        lr=config.learning_rate,
        betas=tuple(config.betas),
        bf16_stochastic_round=rounds_at_random,
    )
    return made


def _adjusted(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """torchao's class `kind`, with three changes that its users need.

    - Signed codes reach from -1 to 1. torchao's end at -0.993, so a block whose largest value is negative
      would shrink each time that it is quantised again, as after a checkpoint.
    - Moments that are not in 8 bits are in float32, whatever their weight is in. In bfloat16 a second moment
      cannot fall: a thousandth of it is less than half of its last digit.
    - On a CPU it runs without torch.compile, which wants a C++ compiler and takes a minute."""

    class Adjusted(kind):  # type: ignore[valid-type,misc]
        def _new_buffer(self, p: torch.Tensor, signed: bool) -> torch.Tensor:
            buffer: torch.Tensor = super()._new_buffer(torch.empty_like(p, dtype=torch.float32), signed)
            local = _local(buffer)
            if signed and hasattr(local, "qmap"):
                local.qmap[0] = -1.0
            return buffer

        def step(self, closure: Any = None) -> Any:
            is_on_cpu = trained(self)[0].device.type == "cpu"
            with torch.compiler.set_stance("force_eager" if is_on_cpu else "default"):
                return super().step(closure)

    return Adjusted


def draw_rounding_by(seed: int, step: int, shard: int) -> None:
    """Let weights in bfloat16 be rounded from now on by the recipe's seed, the step and the part of them.

    `shard`: which part of each weight this rank holds (Parallel.shard). Other rows are rounded by other
    numbers, and ranks that hold the same weights round them alike."""
    digest = hashlib.sha256(f"rounding {seed} {step} {shard}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big"))


def trained(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """What is trained, in the order by which a checkpoint numbers it."""
    parameters: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        parameters.extend(group["params"])
    return parameters


def stored_state(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """The state as `number.name` and a float tensor, shared among the ranks as its parameter is."""
    for number, parameter in enumerate(trained(optimizer)):
        for name, value in sorted(optimizer.state[parameter].items()):
            yield f"{number}.{name}", _as_float(value)


def restore_state(optimizer: torch.optim.Optimizer, number: int, state: dict[str, torch.Tensor]) -> None:
    """Put back the state of parameter `number`; the tensors are whole, and the same on every rank."""
    parameter = trained(optimizer)[number]
    own = optimizer.state[parameter]
    for name, whole in state.items():
        if name == "step":
            # torch's fused optimizers count on the device, torchao's on the CPU.
            is_fused = bool(optimizer.param_groups[0].get("fused"))
            own[name] = whole.to(parameter.device) if is_fused else whole
            continue
        value = _new_buffer(optimizer, parameter, name, whole)
        _local(value).copy_(_local(like(parameter, whole)))
        own[name] = value


def _new_buffer(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, name: str, whole: torch.Tensor
) -> torch.Tensor:
    """A place for a moment of a parameter, in the form in which the optimizer keeps it."""
    make = getattr(optimizer, "_new_buffer", None)  # torchao's
    if make is None:
        return like(parameter, whole)
    signed = name == "exp_avg"
    with torch.no_grad():
        buffer: torch.Tensor = make(parameter, signed)
    return buffer


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _as_float(value: torch.Tensor) -> torch.Tensor:
    """A moment out of its 8 bits; any other tensor as it is."""
    local = _local(value)
    if not hasattr(local, "dequantize") or type(local) is torch.Tensor:
        return value
    plain: torch.Tensor = local.dequantize()
    if not isinstance(value, DTensor):
        return plain
    return DTensor.from_local(
        plain,
        device_mesh=value.device_mesh,
        placements=value.placements,
        run_check=False,
        shape=value.shape,
        stride=value.stride(),
    )
