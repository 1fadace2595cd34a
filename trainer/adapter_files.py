"""An adapter's two files in a checkpoint, in the form that PEFT opens: written, read, and known again."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from schemas.checkpoints import STATE
from schemas.digest import content_digest, fingerprint
from schemas.errors import UserError
from schemas.manifest import FACTS
from schemas.panics import panics_as_errors
from schemas.sections import Lora, Model
from trainer.lora import Adapter, Placed

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def write(path: Path, placed: Placed, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write both files into a folder. Raises OSError."""
    ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
    save_file(ordered, path / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(placed.config, indent=2, sort_keys=True)
    (path / CONFIG).write_text(text + "\n")


def read(model: nn.Module, placed: Placed, path: Path) -> None:
    """Put the tensors of a folder's adapter into the model that such an adapter is in.

    Raises UserError where they are others than those that the model has places for."""
    try:
        with panics_as_errors():
            found = load_file(path / WEIGHTS)
    except Exception as error:  # safetensors' own error is no OSError
        raise UserError(f"{path / WEIGHTS} does not load ({error})") from None
    places = dict(placed.tensors(model))
    forms = {name: tensor.shape for name, tensor in places.items()}
    if {name: tensor.shape for name, tensor in found.items()} != forms:
        odd = sorted(forms.keys() ^ found.keys()) or ["of another shape"]
        raise UserError(f"{path / WEIGHTS} does not fit the model by the settings in {CONFIG}: {odd[0]}")
    with torch.no_grad():
        for name, tensor in places.items():
            tensor.copy_(found[name])


def is_checkpoint(path: Path) -> bool:
    """True if a folder is a checkpoint of [train.lora]."""
    return (path / CONFIG).is_file() and (path / STATE).is_file()


def of_checkpoint(path: Path) -> tuple[Adapter, Model]:
    """The adapter in a checkpoint, and the base that it names, as a recipe's [model] would."""
    try:
        values = json.loads((path / CONFIG).read_bytes())
        targets = values["target_modules"]
        settings = Lora(
            r=values["r"],
            alpha=values["lora_alpha"],
            target_modules=(targets,) if isinstance(targets, str) else tuple(targets),
            modules_to_save=tuple(values["modules_to_save"] or ()),
            bias=values["bias"],
            use_dora=values["use_dora"],
            use_rslora=values["use_rslora"],
        )
        base = Model(name=values["base_model_name_or_path"], revision=values["revision"] or "main")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / CONFIG} is not as the trainer wrote it ({error!r})") from None
    return Adapter(settings, 0, base.name, values["revision"], path), base


def weights_digest(path: Path, base: str) -> str:
    """Digest of the weights of an adapter in `path` and of its base, whose own digest is `base`."""
    return fingerprint({"base": base, "adapter": content_digest(path / WEIGHTS)})


def trained_on(path: Path) -> str | None:
    """The digest of the base's weights, by the facts of the train folder; None where it is in none."""
    try:
        facts = json.loads((path.absolute().parent / FACTS).read_bytes())
        digest = facts["policy"]["weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if isinstance(digest, str) else None
