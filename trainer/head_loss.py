"""The sum of a loss over rows of hidden states, with the head's logits of one chunk alive at a time.

Logits of all tokens are often larger than the model. So the gradient of a chunk is made right after its loss
and its logits are freed before the next chunk's are made: three matrix products a chunk, where going through
all rows twice takes four. To autograd the whole is one function of the hidden states and of the head's
weights, so whatever listens to gradients (DDP's buckets, FSDP2's reductions) sees each of them once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

# From the number of a chunk and its rows (rows, hidden), with a graph, to the chunk's summed loss.
LossOfChunk = Callable[[int, torch.Tensor], torch.Tensor]


def summed_loss(
    loss_of_chunk: LossOfChunk,
    rows: Sequence[int],
    hidden: torch.Tensor,
    weights: Sequence[torch.Tensor],
) -> torch.Tensor:
    """The scalar sum of `loss_of_chunk` over the chunks of `hidden` (P, hidden), which have `rows` rows each.

    `weights`: the tensors with gradient that `loss_of_chunk` uses beside its rows. Call `backward()` on the
    sum itself: its gradients are made already, and a factor put on it afterwards is not seen."""
    total: torch.Tensor = _SummedLoss.apply(loss_of_chunk, list(rows), hidden, *weights)
    return total


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        loss_of_chunk: LossOfChunk,
        rows: list[int],
        hidden: torch.Tensor,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        """The sum, and its gradients kept for `backward`."""
        sums = _Sums(weights, len(rows))
        total = torch.zeros((), device=hidden.device)
        hidden_gradients: list[torch.Tensor] = []
        for number, part in enumerate(hidden.detach().split(rows)):
            with torch.enable_grad():
                leaf = part.requires_grad_()
                loss = loss_of_chunk(number, leaf)
            of_hidden, *of_weights = torch.autograd.grad(loss, (leaf, *weights), allow_unused=True)
            assert of_hidden is not None
            hidden_gradients.append(of_hidden)
            sums.add(of_weights)
            total += loss.detach()
        ctx.hidden_gradient = torch.cat(hidden_gradients)
        ctx.weight_gradients = sums.result()
        return total

    @staticmethod
    def backward(ctx: Any, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients that were made; given away, so that no second copy of the head's is held."""
        of_hidden = ctx.hidden_gradient
        of_weights = ctx.weight_gradients
        ctx.hidden_gradient = None
        ctx.weight_gradients = None
        return None, None, of_hidden, *of_weights


class _Sums:
    """The weights' gradients summed over chunks: in float32 where there are several to add."""

    def __init__(self, weights: Sequence[torch.Tensor], chunks: int) -> None:
        self._dtypes = [weight.dtype for weight in weights]
        self._is_wide = chunks > 1
        self._sums: list[torch.Tensor | None] = [None] * len(weights)

    def add(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Add a chunk's; None stands for zeros."""
        for number, gradient in enumerate(gradients):
            if gradient is None:
                continue
            sum_so_far = self._sums[number]
            if sum_so_far is None:
                self._sums[number] = gradient.float() if self._is_wide else gradient
            else:
                sum_so_far += gradient

    def result(self) -> list[torch.Tensor | None]:
        """The sums, each in its weight's dtype."""
        gradients: list[torch.Tensor | None] = []
        for gradient, dtype in zip(self._sums, self._dtypes, strict=True):
            gradients.append(None if gradient is None else gradient.to(dtype))
        return gradients
