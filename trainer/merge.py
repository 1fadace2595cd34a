"""An adapter and its base as one model folder, in Hugging Face form: written whole or not at all."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from schemas.adapters import base_of, is_adapter
from schemas.errors import UserError
from schemas.forward.load import read_weights
from schemas.identity import config_digest, resolve, weights_digest
from schemas.model_copies import copy_beside
from schemas.model_errors import usable
from schemas.model_files import GENERATION_CONFIG
from schemas.object_store import is_address
from schemas.sections import Model
from schemas.store import open_store
from trainer.disk import at
from trainer.evaluate import folder_of
from trainer.state import dtype_of


def merge(adapter: Path, output: Path, dtype: str = "auto") -> str:
    """Write the model; returns what it is, in a few words. `dtype`: auto is the base's own.

    Raises UserError where there is no adapter, where it is damaged or does not fit its base, and where
    something is at `output` already."""
    _check_free(output)
    is_folder = adapter.is_dir() or is_address(str(adapter))
    source = folder_of(adapter) if is_folder else resolve(Model(name=str(adapter)))
    if not is_adapter(source):
        raise UserError(f"{source} is no adapter (or one beside a whole model): there is nothing to merge")
    with usable(source):
        weights_digest(source)  # of whole files that fit each other
        config_digest(source)
        base = base_of(source)
    if dtype == "auto":
        dtype = dtype_of(base)
    model = read_weights(AutoModelForCausalLM, source, getattr(torch, dtype), "cpu")
    model.generation_config = GenerationConfig()  # many published ones cannot be saved again

    def fill(path: Path) -> None:
        model.save_pretrained(path)
        (path / GENERATION_CONFIG).unlink(missing_ok=True)
        copy_beside(source, path)
        _check_free(output)  # loading takes a while

    folder = output if is_address(str(output)) else output.absolute()
    with at(output, "put that right, or name another folder with -o"):
        open_store(folder.parent).put_folder(folder.name, fill)
    return f"{source} on {base}, merged, {dtype}"


def _check_free(output: Path) -> None:
    is_there = output.exists() or output.is_symlink()
    if is_there or (is_address(str(output)) and open_store(output).exists()):
        raise UserError(f"-o {output}: something is there already; name a folder that is not there yet")
