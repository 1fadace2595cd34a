"""A safetensors file written one tensor after another, so that never more than one of them is in memory.

The library's own `save_file` wants all tensors at once: the optimizer's state of a model of 70 billion
parameters is half a terabyte.
"""

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

# As safetensors writes them.
_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.uint8: "U8",
    torch.int64: "I64",
}


@dataclass(frozen=True)
class Form:
    """A tensor's dtype and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """How many its data takes."""
        elements = 1
        for size in self.shape:
            elements *= size
        return elements * self.dtype.itemsize


def write(path: Path, forms: Mapping[str, Form], tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Write tensors, which come in the order of `forms`, into a file. Raises OSError."""
    header: dict[str, object] = {}
    end = 0
    for name, form in forms.items():
        begin = end
        end += form.bytes
        header[name] = {
            "dtype": _NAMES[form.dtype],
            "shape": list(form.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data begins at a multiple of 8 bytes
    expected = iter(forms.items())
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name, tensor in tensors:
            wanted, form = next(expected)
            assert name == wanted and tensor.dtype == form.dtype and tuple(tensor.shape) == form.shape
            file.write(_bytes(tensor))
    assert next(expected, None) is None, "fewer tensors than forms"


def _bytes(tensor: torch.Tensor) -> bytes | memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
