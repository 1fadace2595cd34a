"""The headers of safetensors files: which tensors they hold, and whether the files are whole.

The form: 8 bytes with the header's length, the header (JSON: name -> dtype, shape, data_offsets), then the
tensors' bytes to the file's end. https://huggingface.co/docs/safetensors
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import UserError
from schemas.model_content import check_is_content

_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000  # bytes; the library's own limit
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Tensor:
    """What a header says of a tensor: `dtype` as safetensors writes it (F32, BF16, I8, F8_E4M3 …)."""

    dtype: str
    shape: tuple[int, ...]


def tensors_of(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises UserError where the file is not a whole safetensors file."""
    check_is_content(file)
    size = file.stat().st_size
    header, begin = _header(file, size)
    end = begin
    tensors: dict[str, Tensor] = {}
    try:
        for name, fields in header.items():
            if name == _METADATA:
                continue
            tensors[name] = _tensor(fields)
            end = max(end, begin + fields["data_offsets"][1])
    except (TypeError, KeyError, IndexError, ValueError):
        raise UserError(
            f"{file} does not load: its header does not say where {name} is; get it again"
        ) from None
    if size < end:
        raise UserError(
            f"{file} does not load: it is cut off, {size:,} bytes where its header "
            f"speaks of {end:,}; get it again"
        )
    if not tensors:
        raise UserError(f"{file} does not load: it holds no tensors; get it again")
    return tensors


def _tensor(fields: dict[str, Any]) -> Tensor:
    """What a header says of one tensor. Raises TypeError, KeyError or ValueError where that cannot be."""
    dtype = fields["dtype"]
    shape = tuple(fields["shape"])
    first, last = fields["data_offsets"]
    numbers = (*shape, first, last)
    are_whole = all(type(number) is int and number >= 0 for number in numbers)
    if not isinstance(dtype, str) or not are_whole:
        raise TypeError("a type is a text, sizes and offsets are whole numbers")
    # Numbers of less than a byte take at least an eighth of one.
    if last < first or math.prod(shape) > 8 * (last - first):
        raise ValueError("more numbers than bytes")
    return Tensor(dtype, shape)


def _header(file: Path, size: int) -> tuple[dict[str, Any], int]:
    """A file's header, and the offset of the first tensor's bytes."""
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        begin = _LENGTH_BYTES + length
        if size < _LENGTH_BYTES:
            raise UserError(f"{file} does not load: it is cut off, {size} bytes; get it again")
        if length > _LONGEST_HEADER:
            raise UserError(_no_safetensors(file))
        if size < begin:
            raise UserError(
                f"{file} does not load: it is cut off, {size:,} bytes where its header "
                f"alone has {begin:,}; get it again"
            )
        text = opened.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise UserError(_no_safetensors(file))
    return header, begin


def _no_safetensors(file: Path) -> str:
    return (
        f"{file} does not load: it is no safetensors file; get it again, or save the model again by "
        "save_pretrained"
    )
