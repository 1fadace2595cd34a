"""checkpoint-<step>/: a model folder that `from_pretrained` opens, with the state of training beside it.

That state is the optimizer's tensors and the position in the schedule. A checkpoint is there whole or not at
all. The optimizer's tensors are safetensors too: nothing has to be unpickled, and the same state gives the
same bytes.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from schemas.chat_template import MORE_TEMPLATES
from schemas.errors import UserError
from schemas.manifest import read_json
from schemas.store import Store

_PREFIX = "checkpoint-"
_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"
# What a model folder has beside weights: tokenizer, template, generation config.
_COPIED_SUFFIXES = (".json", ".jinja", ".model", ".txt", ".spm", ".codes", ".tokenizer")
_NOT_COPIED = ("config.json", "model.safetensors.index.json", _STATE)


@dataclass(frozen=True)
class TrainState:
    """All that changes from step to step."""

    model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler


def name_of(step: int) -> str:
    """The name of a step's checkpoint in its train folder."""
    return f"{_PREFIX}{step}"


def steps(folder: Store) -> list[int]:
    """The steps of the checkpoints that are there, in order."""
    suffixes = [name.removeprefix(_PREFIX) for name in folder.names(f"{_PREFIX}*")]
    return sorted(int(suffix) for suffix in suffixes if suffix.isdigit())


def save(folder: Store, step: int, state: TrainState, source: Path, keep: int) -> None:
    """Write checkpoint-<step>, then remove the oldest ones beyond `keep` (0: keep all).

    Tokenizer and template are copied from `source`. Does nothing where the checkpoint is there."""
    if folder.exists(name_of(step)):
        return
    folder.put_folder(name_of(step), lambda path: _fill(path, step, state, source))
    prune(folder, keep)


def prune(folder: Store, keep: int) -> None:
    """Remove the oldest checkpoints beyond `keep`; 0 keeps all."""
    if keep:
        for old in steps(folder)[:-keep]:
            folder.remove(name_of(old))


def _fill(path: Path, step: int, state: TrainState, source: Path) -> None:
    """Write a checkpoint's files."""
    state.model.save_pretrained(path)
    # The source's own, if any, byte for byte.
    (path / "generation_config.json").unlink(missing_ok=True)
    for file in sorted(source.iterdir()):
        is_wanted = file.suffix in _COPIED_SUFFIXES and file.name not in _NOT_COPIED
        if is_wanted and not (path / file.name).exists():
            shutil.copyfile(file, path / file.name)
    if (source / MORE_TEMPLATES).is_dir():
        shutil.copytree(source / MORE_TEMPLATES, path / MORE_TEMPLATES)
    optimizer = state.optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    for index, values in optimizer["state"].items():
        for name, value in values.items():
            tensors[f"{index}.{name}"] = value.contiguous()
    save_file(tensors, path / _OPTIMIZER)
    position = {
        "step": step,
        "scheduler": state.scheduler.state_dict(),
        "param_groups": optimizer["param_groups"],
    }
    text = json.dumps(
        position,
        indent=1,
        sort_keys=True,
        default=list,
    )
    (path / _STATE).write_text(text)


def remedy(checkpoint: str) -> str:
    """What to do about a damaged checkpoint, named by where it is."""
    return f"delete {checkpoint} to go on from the checkpoint before it"


def restore(checkpoint: Store, state: TrainState) -> None:
    """Put optimizer and schedule back; the weights are loaded from the same folder as any model's.

    Raises UserError where a file is damaged."""
    what_to_do = remedy(checkpoint.where())
    position = read_json(checkpoint, _STATE, what_to_do)
    try:
        tensors = load_file(checkpoint.local_path(_OPTIMIZER))
    except Exception as error:  # safetensors' own error is no OSError
        where = checkpoint.where(_OPTIMIZER)
        raise UserError(f"{where} does not load ({error}): {what_to_do}") from None
    optimizer_state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        optimizer_state.setdefault(int(index), {})[key] = value
    groups = position["param_groups"]
    state.optimizer.load_state_dict({"state": optimizer_state, "param_groups": groups})
    state.scheduler.load_state_dict(position["scheduler"])
