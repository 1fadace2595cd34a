"""An adapter put on its base by PEFT and merged into its weights, in float32: engine and trainer alike.

What is left is a model like any other: W + scale · B·A in the place of W, and no code of PEFT's in its
forward.
"""

import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from schemas.adapter_tensors import modules_of
from schemas.adapters import ADAPTER_WEIGHTS, base_of, settings_of
from schemas.errors import UserError
from schemas.forward.quantized import hidden_if_broken
from schemas.panics import panics_as_errors

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

_ALL_LINEAR = "all-linear"
_TALKATIVE = ("torchao", "bitsandbytes", "torch.utils._pytree")  # loggers


def with_adapter(
    path: Path, dtype: torch.dtype, read: Callable[[Path, torch.dtype], PreTrainedModel]
) -> PreTrainedModel:
    """The adapter in `path` merged into its base, then in `dtype`; `read` opens the base on the CPU.

    Raises UserError as `_merge` does, or where the base is not there."""
    base = base_of(path)
    whole = read(base, torch.float32)
    _merge(whole, path)
    model = whole.requires_grad_(True)  # PEFT freezes a base
    if dtype != torch.float32:
        # Opened anew, so that buffers, and what a family keeps in float32, are as in any model of this dtype.
        model = read(base, dtype)
        merged = dict(whole.named_parameters())
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(merged[name])
    model.name_or_path = model.config.name_or_path = str(path)
    return model


def _merge(base: PreTrainedModel, path: Path) -> None:
    """Merge the adapter in `path` into its base, whose weights are float32 and change in place.

    Raises UserError where PEFT is not installed, and where the two do not fit together."""
    assert all(weight.dtype in (torch.float32, torch.float64) for weight in base.parameters())
    try:
        with panics_as_errors(), _quietly(), hidden_if_broken(), torch.no_grad():
            peft = _peft(path)
            tensors = load_file(path / ADAPTER_WEIGHTS)
            wrapped = peft.PeftModel(base, _config(path, tensors))
            _check_ties(base, path)
            found = peft.set_peft_model_state_dict(wrapped, tensors)
            _check_all_found(wrapped, path, found.missing_keys, found.unexpected_keys)
            merged = wrapped.merge_and_unload(safe_merge=True)
    except UserError:
        raise
    except Exception as error:  # PEFT and its layers fail in many ways
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"the adapter in {path} does not fit its base in {base.name_or_path}: {' '.join(lines)[:400]} "
            "(was it trained on another model?)"
        ) from None
    assert merged is base, "PEFT has put another model in its place"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what is said of packages that PEFT imports where they are there and that are not used here."""
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name in levels:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _peft(path: Path) -> Any:
    """The package. Raises UserError where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise UserError(
            f"{path} is an adapter, which PEFT loads, and that cannot be imported ({error}): "
            'pip install "prefmill[peft]"'
        ) from None
    return peft


def _config(path: Path, tensors: dict[str, torch.Tensor]) -> "LoraConfig":
    """What the adapter's settings say, as PEFT takes it."""
    from peft import LoraConfig

    settings = copy.deepcopy(settings_of(path))
    targets = settings["target_modules"]
    is_pattern = isinstance(targets, str) and targets.lower() != _ALL_LINEAR
    if targets is None or is_pattern:
        # No pattern of somebody else's is run over every name: the tensors say which modules are meant.
        settings["target_modules"] = modules_of(tensors)
    return LoraConfig(**settings, lora_dropout=0.0, inference_mode=True)


def _check_ties(base: PreTrainedModel, path: Path) -> None:
    """Raise UserError where only one of two modules that share their weight has an adapter, or a copy.

    Merged, it would change both."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    embedding = base.get_input_embeddings()
    head = base.get_output_embeddings()
    if not getattr(base.config.get_text_config(), "tie_word_embeddings", False):
        return
    if any(isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) for module in (embedding, head)):
        raise UserError(
            f"the adapter in {path} changes the embedding or the head of {base.name_or_path}, which are one "
            "weight there, so the two cannot be merged; train one that leaves both alone (target_modules, "
            "modules_to_save)"
        )


def _check_all_found(wrapped: "PeftModel", path: Path, missing: list[str], unexpected: list[str]) -> None:
    """Raise UserError where a tensor has no place in the model, or a part of the adapter no tensor."""
    if unexpected:
        raise UserError(
            f"the adapter in {path} does not fit its base: it holds {unexpected[0]}, for which there is no "
            "place; was it trained on another model?"
        )
    own = {name for name, _ in wrapped.named_parameters() if ".lora_" in name or ".modules_to_save." in name}
    absent = sorted(own & set(missing))
    if absent:
        raise UserError(
            f"the adapter in {path} is not whole: {len(absent)} tensors are missing by its settings, such as "
            f"{absent[0]}; get the folder again"
        )
