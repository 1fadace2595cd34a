"""Matrix products of a model on a CPU by oneDNN, with weights packed for it.

torch's own product of a few dozen rows in float32 runs at less than half of the core's speed that packed
weights reach (108 against 245 GFLOP/s at 64 rows x 576 x 1,536). They are a second copy of the weights while
they are in use, so large models go without.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_MOST_BYTES = 2 << 30  # of weights that are packed
_ROWS = 64  # that the packing is best for


@contextlib.contextmanager
def packed_linears(model: nn.Module) -> Iterator[None]:
    """Let the model's linear layers use packed weights, where these are float32 on a CPU and not too large.

    Only for passes without gradients."""
    linears: list[nn.Linear] = []
    size = 0
    for module in model.modules():
        if type(module) is nn.Linear and _can_be_packed(module.weight):
            linears.append(module)
            size += module.weight.nbytes
    if size > _MOST_BYTES:
        linears = []
    operators: Any = torch.ops.mkldnn
    try:
        for linear in linears:
            packed = operators._reorder_linear_weight(linear.weight, _ROWS)
            # An attribute of the object comes before the method of its class.
            linear.__dict__["forward"] = functools.partial(_product, packed, linear.bias)
        yield
    finally:
        # Where there was no memory for all, some of them have none.
        for linear in linears:
            linear.__dict__.pop("forward", None)


def _can_be_packed(weight: torch.Tensor) -> bool:
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    return on_cpu and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(packed: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    operators: Any = torch.ops.mkldnn
    product: torch.Tensor = operators._linear_pointwise(x, packed, bias, "none", [], "")
    return product
