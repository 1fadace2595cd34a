"""A model folder to a model that is ready for the packed pass.

Safetensors only, and no code of the folder's is run. After loading, the self-test (`selftest.prepare`)
compares the packed pass with the model's own forward. A model whose layers do more than the packed attention
does is padded instead. One that does more after its last layer than `logps.Head` knows is refused.
"""

import contextlib
import ctypes
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging as logging_of_transformers

from schemas.adapters import is_adapter
from schemas.errors import UserError
from schemas.forward import quantized
from schemas.forward.adapter import with_adapter
from schemas.forward.selftest import prepare as prepare
from schemas.model_errors import shown, usable
from schemas.model_files import files_of_model, view, weight_files
from schemas.model_sizes import check_built
from schemas.panics import panics_as_errors
from schemas.quantization import NONE
from schemas.tensor_headers import tensors_of

# What transformers says of a family that cannot run the attention asked for.
_REFUSES_ATTENTION = "does not support an attention implementation"
_NUMBER = re.compile(r"\.\d+\.")  # of a layer, in a tensor's name
# glibc's parameters of mallopt.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4


def load(
    path: Path, dtype: torch.dtype, device: torch.device | str, quantization: str = NONE
) -> PreTrainedModel:
    """Load a model folder's weights on a device, ready for `logps.split` and `logps.token_logps`.

    `quantization`: as the recipe's [model] says it. The folder's generation_config is left behind: it would
    change sampling without being asked to, and many published ones cannot be saved again. Raises UserError
    that names what is wrong with the folder."""
    model = read_weights(
        AutoModelForCausalLM,
        path,
        dtype,
        device,
        quantization=quantization,
        attn_implementation="sdpa",
    )
    model.generation_config = GenerationConfig()
    # Dropout would make a model differ from its own log-probs. The DPO authors' code switches it off too.
    model.eval()
    with usable(path):
        return prepare(model)


def read_weights(
    kind: Any,
    path: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    quantization: str = NONE,
    **options: Any,
) -> PreTrainedModel:
    """The folder's model on the device, as one of transformers' Auto classes opens it.

    `kind`: the class; `options`: more of its arguments. Families that refuse the attn_implementation asked
    for (gpt-oss, BLOOM, Mamba) get their own. Of an adapter: its base's model, with the adapter merged into
    it. Raises UserError if the model does not load or lacks weights."""
    logging_of_transformers.disable_progress_bar()
    if torch.device(device).type == "cpu":
        _keep_freed_memory()
    if quantization != NONE:
        _check_can_be_quantised(path)
        more = quantized.options(quantization, dtype, device)
        model = _read(kind, path, dtype, options, more)
        quantized.settle(model)
        return model  # on its device, to which its weights were quantised
    if is_adapter(path):
        return with_adapter(path, dtype, lambda base, of: _read(kind, base, of, options)).to(device)
    return _read(kind, path, dtype, options).to(device)


def _check_can_be_quantised(path: Path) -> None:
    if is_adapter(path):
        raise UserError(
            f"{path} is an adapter, and model.quantization rounds whole models: make one with "
            f"`trainer merge {path} -o FOLDER` and name that folder"
        )


def _read(
    kind: Any,
    path: Path,
    dtype: torch.dtype,
    options: dict[str, Any],
    loading: Mapping[str, Any] = MappingProxyType({}),
) -> PreTrainedModel:
    """The model of a folder that holds a whole one, on the CPU.

    `options`: arguments that a model is built with; `loading`: those of loading alone."""
    with view(path, files_of_model(path)) as folder:
        try:
            options = _check_size(kind, folder, path, options)
            with panics_as_errors():
                loaded: Any = kind.from_pretrained(
                    folder,
                    dtype=dtype,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                    **options,
                    **loading,
                )
        except UserError:
            raise
        except Exception as error:  # each class of a config and of a model fails in its own way
            raise UserError(f"the model in {path} does not load: {shown(error, folder, path)}") from None
    model: PreTrainedModel
    model, info = loaded
    model.name_or_path = model.config.name_or_path = str(path)
    _check_all_there(path, (*info["missing_keys"], *info["mismatched_keys"]))
    _check_nothing_left(path, model, info["unexpected_keys"])
    return model


def _check_size(kind: Any, folder: Path, path: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Raise UserError where the config builds a model that is far larger than the files.

    Returns the options that it can be built with."""
    built, options = _build_empty(kind, folder, options)
    elements = 0
    for name in weight_files(path):
        elements += sum(math.prod(tensor.shape) for tensor in tensors_of(path / name).values())
    check_built(path, built, elements)
    return options


def _build_empty(kind: Any, folder: Path, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model without memory, and the options that it is built with: its own attention where it refuses."""
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        try:
            return kind.from_config(config, trust_remote_code=False, **options), options
        except ValueError as error:
            if _REFUSES_ATTENTION not in str(error):
                raise
        options = {**options, "attn_implementation": "eager"}
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return kind.from_config(config, trust_remote_code=False, **options), options


def _check_all_there(path: Path, missing: Iterable[Any]) -> None:
    """Raise UserError where tensors are missing: transformers fills them with random numbers and goes on."""
    absent = sorted(map(str, missing))
    if absent:
        raise UserError(
            f"the weights in {path} are not whole: {len(absent)} tensors are missing or of another shape, "
            f"such as {absent[0]}; get the folder again"
        )


def _check_nothing_left(path: Path, model: PreTrainedModel, unexpected: Iterable[str]) -> None:
    """Raise UserError where the weights hold more layers than the config builds: half a model would be used.

    Other tensors that are not loaded (a picture tower, a value head) are no part of the language model."""
    own = {_NUMBER.split(name)[0] for name in model.state_dict() if _NUMBER.search(name)}
    for name in sorted(unexpected):
        if _NUMBER.search(name) and _NUMBER.split(name)[0] in own:
            raise UserError(
                f"the weights in {path} hold {name}, for which its config.json has no place: the two do not "
                "belong together (num_hidden_layers?); get the folder again"
            )


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next step.

    By default it gives large tensors back to the system, and each step faults them in anew, page by page: 55
    thousand faults and a seventh of a step's time at 5 million parameters. The peak is the same. This changes
    no number."""
    # Without glibc do nothing.
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(_M_MMAP_MAX, 0)  # large blocks lie in the heap too


def give_freed_memory_back() -> None:
    """Tell glibc to give freed blocks of a MiB or more back at once: slower, and memory is what is freed.

    It undoes `_keep_freed_memory` where memory is short. Weights that are gathered, and layers that run
    again, leave holes of all sizes in a heap: as much again as was ever alive, at 60 million parameters."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 20)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        libc.mallopt(_M_MMAP_MAX, 1 << 16)
        libc.malloc_trim(0)
