"""All that changes from step to step, written into a checkpoint's folder and read back.

    model.safetensors       the weights, in the dtype that the model came in (train.save_dtype); of an adapter
                            adapter_model.safetensors, in the dtype that it is trained in
    optimizer.safetensors   by the number of each trained weight: the optimizer's moments, and the float32
                            weight itself where the file of weights rounds it (`master`)
    state.json              the step and the position in the schedule

Every tensor is whole, whatever the ranks share, so a run goes on with any number of them. Gathering a tensor
is a call that all ranks make together, in one order; rank 0 writes.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from schemas import checkpoints
from schemas.checkpoints import OPTIMIZER, STATE
from schemas.errors import UserError
from schemas.forward.precision import DTYPES, compute_dtypes
from schemas.model_files import model_home, weight_files
from schemas.panics import Panic, panics_as_errors
from schemas.store import Store
from schemas.tensor_headers import tensors_of
from trainer import adapter_files, tensor_file
from trainer.dist import is_first
from trainer.optimizers import restore_state, stored_state, trained
from trainer.parallel import Parallel, like
from trainer.policy import Policy
from trainer.tensor_file import Form

_MASTER = "master"
_SAVED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class TrainState:
    """All that changes from step to step. `save_dtype`: the name of the one that checkpoints have."""

    parallel: Parallel
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    save_dtype: str

    @property
    def policy(self) -> Policy:
        """What is trained."""
        return self.parallel.policy


def dtype_of(source: Path) -> str:
    """The dtype that most of a model folder's weights are in, of an adapter's base; float32 for any other."""
    home = model_home(source)
    elements: Counter[str] = Counter()
    for name in weight_files(home):
        for tensor in tensors_of(home / name).values():
            elements[tensor.dtype] += math.prod(tensor.shape)
    most, _ = elements.most_common(1)[0]
    return _SAVED.get(most, "float32")


def weights_of(state: TrainState) -> Iterator[tuple[str, torch.Tensor]]:
    """The model's whole tensors under their names, in the dtype of checkpoints. Every rank goes through it.

    Where an adapter is trained, its tensors alone, under the names that PEFT's file has.

    What the model's class keeps in float32 stays so. A tensor that has two names comes as one object. Only
    rank 0 holds the tensors that came; the others take part in gathering those that are split."""
    if not is_first():
        yield from _take_part(state)
        return
    model = state.policy.model
    dtypes = compute_dtypes(model, DTYPES[state.save_dtype])
    as_read = state.policy.buffers_as_read
    made: dict[torch.Tensor, torch.Tensor] = {}
    for name, tensor in _own_tensors(state):
        if tensor not in made:
            wanted = dtypes.get(tensor, tensor.dtype)
            if isinstance(tensor, nn.Parameter):
                made[tensor] = state.parallel.whole(tensor.detach()).to("cpu", wanted)
            else:
                made[tensor] = _as_exact(as_read.get(name, tensor), wanted)
        yield name, made[tensor]


def _take_part(state: TrainState) -> Iterator[tuple[str, torch.Tensor]]:
    """What `weights_of` is on the other ranks: they keep nothing of what they help to gather."""
    if not state.parallel.shards:
        return
    seen: set[torch.Tensor] = set()
    for name, tensor in _own_tensors(state):
        if tensor not in seen and isinstance(tensor, nn.Parameter):
            seen.add(tensor)
            yield name, state.parallel.whole(tensor.detach())


def _own_tensors(state: TrainState) -> Iterable[tuple[str, Any]]:
    """What the file of weights holds, shared as it is."""
    model = state.policy.model
    if state.policy.adapter:
        return state.policy.adapter.tensors(model)
    return model.state_dict(keep_vars=True).items()


def _as_exact(buffer: torch.Tensor, wanted: torch.dtype) -> torch.Tensor:
    """A buffer in the dtype `wanted`, or in its own where that would round it.

    Nobody trains it, and optimizer.safetensors holds no exact one: a run goes on with what is written."""
    written = buffer.to("cpu", wanted)
    is_same = torch.equal(written.to(buffer.dtype), buffer.cpu())
    return written if is_same else buffer.cpu()


def optimizer_forms(state: TrainState) -> dict[str, Form]:
    """What optimizer.safetensors holds, without gathering any of it."""
    forms: dict[str, Form] = {}
    for name, tensor in _shared_tensors(state):
        forms[name] = Form(tensor.dtype, tuple(tensor.shape))
    return forms


def optimizer_tensors(state: TrainState) -> Iterator[tuple[str, torch.Tensor]]:
    """The whole tensors of optimizer.safetensors, in the order of the forms. Every rank goes through it."""
    for name, tensor in _shared_tensors(state):
        yield name, state.parallel.whole(tensor.detach())


def _shared_tensors(state: TrainState) -> Iterator[tuple[str, torch.Tensor]]:
    """The optimizer's state and the weights that are rounded elsewhere, shared as they are."""
    yield from stored_state(state.optimizer)
    dtypes = compute_dtypes(state.policy.model, DTYPES[state.save_dtype])
    for number, parameter in enumerate(trained(state.optimizer)):
        if dtypes.get(parameter, parameter.dtype) != parameter.dtype:
            yield f"{number}.{_MASTER}", parameter


def check_finite(state: TrainState) -> str | None:
    """What of this rank's part of the state is not finite, in words; None where all of it is."""
    for name, parameter in state.policy.model.named_parameters():
        if parameter.is_floating_point() and not _local(parameter).isfinite().all():
            return f"the weight {name}"
    for name, value in stored_state(state.optimizer):
        if not _local(value).isfinite().all():
            return f"the optimizer's {name.partition('.')[2]}"
    return None


def _local(tensor: torch.Tensor) -> torch.Tensor:
    local: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.detach()


def write(
    path: Path,
    state: TrainState,
    forms: dict[str, Form],
    weights: dict[str, torch.Tensor],
    tensors: Iterator[tuple[str, torch.Tensor]],
) -> None:
    """Write the model and the optimizer's state into a folder, on rank 0. Raises OSError."""
    if state.policy.adapter:
        adapter_files.write(path, state.policy.adapter, weights)
    else:
        state.policy.model.save_pretrained(path, state_dict=weights)
        _say_dtype(path / "config.json", state.save_dtype)
        # The source's own, if any, byte for byte.
        (path / "generation_config.json").unlink(missing_ok=True)
    tensor_file.write(path / OPTIMIZER, forms, tensors)


def position(step: int, state: TrainState) -> dict[str, Any]:
    """What state.json says of a step, beside the digests of the other files."""
    groups: list[dict[str, Any]] = state.optimizer.state_dict()["param_groups"]
    found = {
        "step": step,
        "scheduler": state.scheduler.state_dict(),
        "param_groups": groups,
    }
    as_json: dict[str, Any] = json.loads(json.dumps(found, default=_plain))
    return as_json


def _plain(value: Any) -> Any:
    """A learning rate that is a tensor, or a tuple, as JSON has it."""
    return value.item() if isinstance(value, torch.Tensor) else list(value)


def _say_dtype(config: Path, dtype: str) -> None:
    """Let config.json say the dtype that the weights are saved in, also for the parts of a model."""
    values = json.loads(config.read_text())
    for part in (values, *values.values()):
        if isinstance(part, dict) and "dtype" in part:
            part["dtype"] = dtype
    config.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def restore(checkpoint: Store, state: TrainState) -> None:
    """Put optimizer, schedule and float32 weights back; the model was loaded from the same folder.

    Where the folder's weights are in float32, they have no others beside them, whatever train.save_dtype says
    now: so a checkpoint from before there was such a key goes on to the same weights.

    Every rank reads the file and takes its part. Raises UserError where a file is damaged."""
    what_to_do = f"delete {checkpoint.where()} to go on from the checkpoint before it"
    found = checkpoints.position_of(checkpoint.local_path())
    if found is None:
        raise UserError(f"{checkpoint.where(STATE)} is not as it was written: {what_to_do}")
    try:
        with panics_as_errors(), torch.no_grad():
            _restore_tensors(checkpoint.local_path(OPTIMIZER), state)
    except UserError:
        raise
    except (SafetensorError, Panic, ValueError) as error:
        where = checkpoint.where(OPTIMIZER)
        raise UserError(f"{where} does not load ({error}): {what_to_do}") from None
    _restore_groups(state.optimizer, found["param_groups"])
    state.scheduler.load_state_dict(found["scheduler"])


def _restore_tensors(path: Path, state: TrainState) -> None:
    """Raises ValueError, or safetensors' error, for a file that is not of this state."""
    parameters = trained(state.optimizer)
    names_of: dict[int, list[str]] = {}
    with safe_open(path, framework="pt") as file:
        for full_name in file.keys():  # noqa: SIM118  it is no dict
            number, _, name = full_name.partition(".")
            names_of.setdefault(int(number), []).append(name)
        for number, names in sorted(names_of.items()):
            values = {name: file.get_tensor(f"{number}.{name}") for name in names}
            _check_fits(number, values, parameters)
            master = values.pop(_MASTER, None)
            if master is not None:
                parameter = parameters[number]
                _local(parameter).copy_(_local(like(parameter, master)))
            restore_state(state.optimizer, number, values)


def _check_fits(number: int, values: dict[str, torch.Tensor], parameters: list[torch.nn.Parameter]) -> None:
    """Raise ValueError for values of which there is no weight, or one of another shape; `step` has none."""
    if number >= len(parameters):
        raise ValueError(f"weight {number} of {len(parameters)}")
    for name, value in values.items():
        wanted = parameters[number].shape
        if name != "step" and value.shape != wanted:
            raise ValueError(f"{number}.{name} is {tuple(value.shape)}, not {tuple(wanted)}")


def _restore_groups(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """The settings of each group as they were; the learning rate keeps the form in which it is held."""
    for own, saved in zip(optimizer.param_groups, groups, strict=True):
        for name, value in saved.items():
            if name == "params":
                continue
            if isinstance(own.get(name), torch.Tensor):
                own[name].fill_(value)
            elif isinstance(own.get(name), tuple):
                own[name] = tuple(value)
            else:
                own[name] = value
