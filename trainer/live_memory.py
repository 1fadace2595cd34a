"""How many bytes of tensors are alive while some code runs on the meta device, where nothing is computed.

`LiveBytes` sees every operation below autograd, those of the backward pass too, and counts the memory that
their results would have until the last tensor that views it is gone. So the peak of a pass is known for a
model that fits no memory here.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts in `live` what is alive now, in `peak` the most that was. `held`: tensors that do not count."""

    def __init__(self, held: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._seen = {id(tensor.untyped_storage()) for tensor in held}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor):
                self._count(made)
        return result

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        # torch gives one Python object a storage, as long as it lives.
        key = id(storage)
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


@contextlib.contextmanager
def flash_on_meta(*, masks_are_floats: bool) -> Iterator[None]:
    """Let scaled_dot_product_attention keep for its backward pass what it keeps on a CPU or a GPU.

    On the meta device it would take the way that makes the whole matrix of scores, which no device takes.
    `masks_are_floats`: True where a mask is turned into numbers, as on a CPU. The function itself is
    exchanged, since a TorchFunctionMode is off while layers run again in a backward pass."""

    def attend(
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if enable_gqa:
            repeats = query.shape[1] // key.shape[1]
            key = key.repeat_interleave(repeats, 1)
            value = value.repeat_interleave(repeats, 1)
        mask = None
        if attn_mask is not None and masks_are_floats:
            mask = attn_mask.to(query.dtype)
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output: torch.Tensor = flash(query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale)[0]
        return output

    own = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own
