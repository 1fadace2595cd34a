"""Small model folders of every form that users bring, for the tests of what a model is."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def copy_of(model: Path, path: Path) -> Path:
    shutil.copytree(model, path)
    return path


def change_json(file: Path, **values) -> None:
    """Set keys of a JSON file; None removes one."""
    content = json.loads(file.read_text()) if file.exists() else {}
    content.update(values)
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def shard(path: Path, keep_single: bool = False) -> dict[str, str]:
    """Write the folder's weights as two shards with their index; returns its weight_map."""
    tensors = load_file(path / "model.safetensors")
    names = sorted(tensors)
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    weight_map = {}
    for number, file in enumerate(files):
        part = {name: tensors[name] for name in names[number::2]}
        save_file(part, path / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    write_index(path, weight_map)
    if not keep_single:
        (path / "model.safetensors").unlink()
    return weight_map


def write_index(path: Path, weight_map: dict[str, str]) -> None:
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def change_weights(file: Path, factor: float = 1.5) -> None:
    tensors = {name: value * factor for name, value in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})


def add_adapter(path: Path, base: str = "acme/base-7b") -> None:
    """What PEFT writes for a LoRA adapter."""
    import torch

    path.mkdir(exist_ok=True)
    adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": 2}
    (path / "adapter_config.json").write_text(json.dumps(adapter))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: torch.ones(2, 48)}, path / "adapter_model.safetensors")


def saved(model, model_path: Path, path: Path) -> Path:
    """A model of another family, saved by transformers with the tokenizer of `model_path` beside it."""
    model.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(model_path / name, path / name)
    return path
