"""Whether the sizes that a config.json says can be those of its weights, before anything is built.

A model is built by its config and then filled from its files: a config that says 10^9 layers, or a vocabulary
of 10^12, would take all memory before the two are compared.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import UserError
from schemas.tensor_headers import Tensor

if TYPE_CHECKING:
    import torch

_LAYERS = frozenset({"num_hidden_layers", "n_layer", "n_layers", "num_layers"})
_WIDTHS = frozenset(
    {
        *("hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "ffn_dim", "head_dim"),
        *("num_attention_heads", "num_key_value_heads", "n_head", "vocab_size"),
    }
)
# Numbers that say how positions are turned; there may be one set for each kind of layer.
_ROPE = ("rope_scaling", "rope_parameters")
_ROPE_NUMBERS = frozenset(
    {
        *("factor", "rope_theta", "attention_factor", "beta_fast", "beta_slow", "low_freq_factor"),
        *("high_freq_factor", "mscale", "mscale_all_dim", "original_max_position_embeddings"),
        *("partial_rotary_factor", "alpha"),
    }
)
_NUMBER = re.compile(r"\.(\d+)\.")  # of a layer, in a tensor's name
_MOST_LAYERS = 1000
# Numbers in the tables (of positions, of a mask) that a model may have beside its weights.
_TABLES = 1 << 28


def check_sizes(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError where a size is no number of things, or more than all that the weights hold."""
    elements = sum(math.prod(tensor.shape) for tensor in tensors.values())
    layers = _layers(tensors)
    for part in (config, config.get("text_config")):
        for name, value in part.items() if isinstance(part, Mapping) else ():
            if name in _LAYERS:
                # Without numbers in the tensors' names nobody can count the layers.
                _check(path, name, value, 1, layers or _MOST_LAYERS, "layers")
            elif name in _WIDTHS:
                _check(path, name, value, 1, elements, "numbers in all")
            elif name in _ROPE:
                _check_rope(path, name, value)


def _check(path: Path, name: str, value: object, least: int, most: int, what: str) -> None:
    is_left_open = value is None and name in ("n_inner", "head_dim", "num_key_value_heads")
    if is_left_open:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(
            f"the model in {path} cannot be used here: its config.json says {name} = {str(value)[:40]}, but "
            f"its weights hold {most} {what}: the two do not belong together; get the folder again"
        )


def _check_rope(path: Path, name: str, values: object) -> None:
    """Raise UserError where what must be a number is none; None leaves it open."""
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            _check_rope(path, f"{name}.{key}", value)
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in _ROPE_NUMBERS and value is not None and not is_number:
            raise UserError(
                f"the model in {path} cannot be used here: its config.json says {name}.{key} = "
                f"{str(value)[:40]}, which is no number; correct it there, or get the folder again"
            )


def _layers(tensors: Iterable[str]) -> int:
    """The number of layers by the names of the tensors: the highest number, and one."""
    numbers = [int(found[1]) for name in tensors for found in _NUMBER.finditer(name) if len(found[1]) < 7]
    return max(numbers, default=-1) + 1


def check_built(path: Path, model: "torch.nn.Module", elements: int) -> None:
    """Raise UserError where a model that was built without memory wants far more than its files hold.

    `elements`: the numbers in the files. Weights that are tied stand in the model twice."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    tables = sum(buffer.numel() for buffer in model.buffers())
    if weights > 2 * elements or tables > 16 * elements + _TABLES:
        raise UserError(
            f"the model in {path} does not load: by its config.json it has {weights + tables:,} numbers, and "
            f"its files hold {elements:,}; the two do not belong together; get the folder again"
        )
