"""The head's gradients made chunk by chunk are those of plain autograd, for any kind of head.

N = 23 rows in four chunks, 8 hidden, V = 61.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.head_loss import summed_loss

ROWS = [5, 1, 10, 7]
HIDDEN = 8
VOCABULARY = 61


def made(dtype=torch.float32, bias=False):
    """Hidden states with a graph below them, a head, and the targets of each chunk."""
    torch.manual_seed(3)
    below = nn.Linear(4, HIDDEN).to(dtype)
    inputs = torch.randn(sum(ROWS), 4, dtype=dtype)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=bias).to(dtype)
    targets = torch.randint(0, VOCABULARY, (sum(ROWS),)).split(ROWS)
    return below, inputs, head, targets


def loss_with(head, targets):
    """A loss that is no plain sum, so that each chunk's gradient has a factor of its own."""

    def loss_of_chunk(number: int, rows: torch.Tensor) -> torch.Tensor:
        logits = head(rows).float()
        logps = -F.cross_entropy(logits, targets[number], reduction="none")
        return (logps * torch.arange(1, len(rows) + 1)).sum().square() * 1e-3

    return loss_of_chunk


def by_autograd(loss_of_chunk, hidden) -> torch.Tensor:
    return sum(loss_of_chunk(number, rows) for number, rows in enumerate(hidden.split(ROWS)))


def gradients_of(modules) -> list[torch.Tensor]:
    found = []
    for module in modules:
        for parameter in module.parameters():
            found.append(parameter.grad.clone())
            parameter.grad = None
    return found


@pytest.mark.parametrize("bias", [False, True])
def test_they_are_those_of_autograd(bias):
    below, inputs, head, targets = made(bias=bias)
    loss_of_chunk = loss_with(head, targets)
    wanted = by_autograd(loss_of_chunk, below(inputs))
    wanted.backward()
    exact = gradients_of((below, head))
    total = summed_loss(loss_of_chunk, ROWS, below(inputs), list(head.parameters()))
    total.backward()
    torch.testing.assert_close(total, wanted, rtol=1e-6, atol=0)
    for found, gradient in zip(gradients_of((below, head)), exact, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item())


def test_they_add_to_those_that_are_there():
    below, inputs, head, targets = made()
    for _ in range(2):
        summed_loss(loss_with(head, targets), ROWS, below(inputs), [head.weight]).backward()
    twice = gradients_of((below, head))
    summed_loss(loss_with(head, targets), ROWS, below(inputs), [head.weight]).backward()
    for doubled, once in zip(twice, gradients_of((below, head)), strict=True):
        torch.testing.assert_close(doubled, 2 * once)


def test_a_head_that_is_tied_to_what_lies_below_has_both_gradients():
    """The weight of the head is used in the hidden states, as an embedding is."""
    _, _, head, targets = made()
    ids = torch.randint(0, VOCABULARY, (sum(ROWS),))

    def hidden() -> torch.Tensor:
        return F.embedding(ids, head.weight).tanh()

    loss_of_chunk = loss_with(head, targets)
    by_autograd(loss_of_chunk, hidden()).backward()
    (exact,) = gradients_of((head,))
    summed_loss(loss_of_chunk, ROWS, hidden(), [head.weight]).backward()
    (found,) = gradients_of((head,))
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)


def test_no_gradient_is_made_of_a_frozen_head(monkeypatch):
    below, inputs, head, targets = made(bias=True)
    head.requires_grad_(False)
    loss_of_chunk = loss_with(head, targets)
    by_autograd(loss_of_chunk, below(inputs)).backward()
    exact = gradients_of((below,))
    asked = []
    original = torch.autograd.grad

    def grad(loss, wanted, **options):
        asked.append(len(wanted))
        return original(loss, wanted, **options)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    summed_loss(loss_of_chunk, ROWS, below(inputs), []).backward()
    assert asked == [1] * len(ROWS)  # of the hidden states alone
    for found, gradient in zip(gradients_of((below,)), exact, strict=True):
        torch.testing.assert_close(found, gradient)
    assert head.weight.grad is None and head.bias.grad is None


def test_chunks_in_bfloat16_are_added_up_in_float32():
    """The sum over chunks is rounded once, as the gradient of a single chunk is: not once a chunk."""
    below, inputs, head, targets = made(torch.bfloat16)
    hidden = below(inputs).detach()
    parts = []
    for number, rows in enumerate(hidden.split(ROWS)):
        (part,) = torch.autograd.grad(loss_with(head, targets)(number, rows), head.weight)
        parts.append(part)
    summed_loss(loss_with(head, targets), ROWS, below(inputs), [head.weight]).backward()
    in_float32 = torch.stack([part.float() for part in parts]).sum(0)
    assert head.weight.grad.dtype == torch.bfloat16
    assert torch.equal(head.weight.grad, in_float32.bfloat16())
    one_by_one = sum(parts[1:], parts[0])
    assert not torch.equal(head.weight.grad, one_by_one)  # the chunks are such that it shows


def test_an_error_in_a_chunk_is_that_error():
    below, inputs, head, _ = made()

    def fails(number: int, rows: torch.Tensor) -> torch.Tensor:
        if number == 2:
            raise MemoryError("of this chunk")
        return head(rows).sum()

    with pytest.raises(MemoryError, match="of this chunk"):
        summed_loss(fails, ROWS, below(inputs), [head.weight])
    assert head.weight.grad is None
