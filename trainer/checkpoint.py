"""checkpoint-<step>/: a model folder that `from_pretrained` opens, with the optimizer and the position beside it; there whole or not at all.

The optimizer's tensors are safetensors too: nothing has to be unpickled, and the same state gives the same bytes.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from schemas.commit import commit_folder
from schemas.errors import UserError
from schemas.manifest import read_json

_NOT_COPIED = {"config.json", "model.safetensors.index.json", "state.json"}


def path_of(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}"


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints that are there whole."""
    found = (path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*"))
    return sorted(int(step) for step in found if step.isdigit())


def save(
    folder: Path,
    step: int,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    scheduler,
    source: Path,
    keep: int,
) -> None:
    """Writes checkpoint-<step> and then removes the oldest beyond `keep`. Tokenizer and template are copied from `source`."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value.contiguous()
        for index, values in state["state"].items()
        for name, value in values.items()
    }

    def fill(path: Path) -> None:
        model.save_pretrained(path)
        (path / "generation_config.json").unlink(missing_ok=True)  # the source's own, if any, byte for byte
        for file in sorted(source.iterdir()):
            if (
                file.suffix in (".json", ".jinja", ".model", ".txt")
                and file.name not in _NOT_COPIED
                and not (path / file.name).exists()
            ):
                shutil.copyfile(file, path / file.name)
        save_file(tensors, path / "optimizer.safetensors")
        position = {"step": step, "scheduler": scheduler.state_dict(), "param_groups": state["param_groups"]}
        (path / "state.json").write_text(json.dumps(position, indent=1, sort_keys=True, default=list))

    if path_of(folder, step).exists():
        return
    commit_folder(path_of(folder, step), fill)
    for old in steps(folder)[:-keep] if keep else []:
        remove(folder, old)


def remove(folder: Path, step: int) -> None:
    # Renamed first: a removal that is cut off must not leave half a checkpoint under its name.
    shutil.rmtree(path_of(folder, step).rename(folder / f"checkpoint-{step}.{os.getpid()}.tmp"))


def remedy(path: Path) -> str:
    return f"delete {path} to go on from the checkpoint before it"


def restore(path: Path, optimizer: torch.optim.Optimizer, scheduler) -> None:
    """Optimizer and schedule as they were; the weights are loaded from the same folder as any model's."""
    position = read_json(path / "state.json", remedy(path))
    state: dict[int, dict[str, torch.Tensor]] = {}
    try:
        tensors = load_file(path / "optimizer.safetensors")
    except Exception as error:  # safetensors' own error is no OSError
        raise UserError(f"{path}/optimizer.safetensors does not load ({error}): {remedy(path)}") from None
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": position["param_groups"]})
    scheduler.load_state_dict(position["scheduler"])
