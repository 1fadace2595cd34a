"""Random numbers of (seed, position, index), on the device that they are used on: Philox-4x32-10.

A counter-based generator has no state: a number is a function of what it is asked for, so a sample's numbers
are the same alone and in every batch, and nothing is copied to a device. The integers and the uniform numbers
are the same bits on every type of device; all arithmetic on them is exact.

Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC11).
"""

from collections.abc import Sequence

import torch

_ROUNDS = 10
_WORD = (1 << 32) - 1  # the bits of a word of 32
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_HALF_BITS = 26  # of a uniform number, from each of two words

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def philox(counter: Words, key: tuple[torch.Tensor, torch.Tensor]) -> Words:
    """Four words of 32 bits for each counter of four, under a key of two.

    Words are int64 in [0, 2^32), of shapes that broadcast: torch has no full arithmetic on uint32."""
    first, second, third, fourth = counter
    left, right = key
    for _ in range(_ROUNDS):
        first_high, first_low = _multiply(first, _MULTIPLIERS[0])
        third_high, third_low = _multiply(third, _MULTIPLIERS[1])
        first = third_high ^ second ^ left
        third = first_high ^ fourth ^ right
        second = third_low
        fourth = first_low
        left = (left + _KEY_STEPS[0]) & _WORD
        right = (right + _KEY_STEPS[1]) & _WORD
    return first, second, third, fourth


def _multiply(words: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The upper and the lower word of a product.

    It wraps around in int64, which leaves all of its 64 bits as they are."""
    product = words * factor
    return (product >> 32) & _WORD, product & _WORD


def uniform(keys: torch.Tensor, positions: torch.Tensor, indices: torch.Tensor, stream: int) -> torch.Tensor:
    """float64 strictly between 0 and 1, a multiple of 2^-53, for each row and index.

    `keys`: (rows, 2) of `keys_of`; `positions`: (rows,) int64, of the token within its response; `indices`:
    (n,) for all rows, or (rows, n); `stream`: numbers of different streams are independent."""
    rows = positions[:, None]
    counter = (
        indices.expand(len(positions), -1),
        rows,
        torch.full_like(rows, stream),
        torch.zeros_like(rows),
    )
    first, second, _, _ = philox(counter, (keys[:, :1], keys[:, 1:]))
    shift = 32 - _HALF_BITS
    bits = ((first >> shift) << _HALF_BITS) | (second >> shift)
    # Halves are added so that 0 does not occur; with 52 bits before them no number is rounded, to 1 say.
    return (bits.double() + 0.5) * 2.0 ** (-2 * _HALF_BITS)


def gumbel(keys: torch.Tensor, positions: torch.Tensor, indices: torch.Tensor, stream: int) -> torch.Tensor:
    """Standard Gumbel noise for each number of `uniform`: float64, between -3.6 and 36.8, always finite."""
    return -(-uniform(keys, positions, indices, stream).log()).log()


def keys_of(seeds: Sequence[int], device: torch.device | str) -> torch.Tensor:
    """(rows, 2) int64: the lower and the upper word of each seed, of which 64 bits count."""
    words = [[seed & _WORD, (seed >> 32) & _WORD] for seed in seeds]
    return torch.tensor(words, dtype=torch.long, device=device).view(-1, 2)
