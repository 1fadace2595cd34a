"""Philox-4x32-10 on torch: published answers, a reference in Python, and draws that follow their law."""

import itertools
import math

import numpy as np
import pytest
import torch

from engine.models.noise import gumbel, keys_of, philox, uniform
from engine.models.sampling import draw_tokens, keep_likely, keep_top_p
from schemas.sections import Sampling

# Random123's kat_vectors: counter, key, words.
KNOWN = [
    ("00000000 " * 4, "00000000 " * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def in_python(counter: list[int], key: list[int]) -> list[int]:
    """The same on Python's integers, which have no width."""
    a, b, c, d = counter
    for number in range(10):
        left = (key[0] + number * 0x9E3779B9) % 2**32
        right = (key[1] + number * 0xBB67AE85) % 2**32
        one, two = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (two >> 32) ^ b ^ left, two % 2**32, (one >> 32) ^ d ^ right, one % 2**32
    return [a, b, c, d]


@pytest.mark.parametrize(("counter", "key", "known"), KNOWN)
def test_the_words_are_the_published_ones(counter, key, known):
    assert in_python(words(counter), words(key)) == words(known)
    found = philox(
        tuple(torch.tensor([word]) for word in words(counter)),
        tuple(torch.tensor([word]) for word in words(key)),
    )
    assert [int(word) for word in found] == words(known)


def test_every_number_is_that_of_its_seed_position_index_and_stream():
    """Rows, indices and streams on their own, against Python's integers bit for bit."""
    seeds = [0, 1, 2**32 - 1, 2**60 - 3, 0x9F3_1234_5678_9ABC]
    positions = [0, 7, 3, 2**20, 1]
    indices = [0, 1, 255, 128_255, 2**31]
    found = uniform(keys_of(seeds, "cpu"), torch.tensor(positions), torch.tensor(indices), 1)
    assert found.shape == (5, 5) and found.dtype == torch.float64
    for row, column in itertools.product(range(5), range(5)):
        seed = seeds[row]
        first, second, _, _ = in_python([indices[column], positions[row], 1, 0], [seed % 2**32, seed >> 32])
        bits = (first >> 6) * 2**26 + (second >> 6)
        assert found[row, column].item() == (2 * bits + 1) / 2**53
    assert len(set(found.flatten().tolist())) == 25


def test_noise_is_finite_at_the_ends():
    least, most = 0.5 * 2.0**-52, (2.0**52 - 0.5) * 2.0**-52
    assert least > 0 and most < 1
    assert all(math.isfinite(-math.log(-math.log(u))) for u in (least, most))
    found = gumbel(keys_of(range(50), "cpu"), torch.zeros(50, dtype=torch.long), torch.arange(4000), 0)
    assert found.isfinite().all()
    # Mean and variance of the standard Gumbel, at 4 standard errors of 200,000 draws.
    assert abs(found.mean().item() - np.euler_gamma) < 4 * 1.2825 / 200_000**0.5
    assert abs(found.var().item() - math.pi**2 / 6) < 0.04


def chi_squared(seen: np.ndarray, p: np.ndarray) -> float:
    """In standard deviations above its mean."""
    expected = seen.sum() * p
    likely = expected > 4
    value = ((seen - expected)[likely] ** 2 / expected[likely]).sum()
    freedom = likely.sum() - 1
    return (value - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("vocabulary", [5, 256, 700])
def test_draws_follow_the_law(vocabulary):
    """Also over several blocks of tokens, the last of them not whole, and across positions of one seed."""
    draw = torch.Generator().manual_seed(vocabulary)
    logits = 2 * torch.randn(1, vocabulary, generator=draw)
    logits[0, 3] = float("-inf")
    rows = 3_000
    p = logits[0].double().softmax(0).numpy()
    for seeds, positions in ((range(rows), [4] * rows), ([11] * rows, range(rows))):
        places = torch.tensor(list(positions))
        tokens = draw_tokens(logits.expand(rows, -1), keys_of(seeds, "cpu"), places)
        seen = np.bincount(tokens.numpy(), minlength=vocabulary)
        assert seen[3] == 0 and len(seen) == vocabulary
        assert chi_squared(seen, p) < 4


def test_the_tokens_of_a_seed_at_two_positions_are_independent():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).expand(3_000, -1)
    keys = keys_of(range(3_000), "cpu")
    first, second = (draw_tokens(logits, keys, torch.full((3_000,), place)) for place in (0, 1))
    p = np.array([0.5, 0.3, 0.2])
    assert chi_squared(np.bincount(3 * first + second, minlength=9), np.outer(p, p).flatten()) < 4


def test_a_draw_does_not_see_its_batch():
    draw = torch.Generator().manual_seed(1)
    logits = torch.randn(7, 1000, generator=draw)
    seeds, positions = list(range(5, 12)), [0, 3, 3, 9, 0, 1, 2]
    together = draw_tokens(logits, keys_of(seeds, "cpu"), torch.tensor(positions))
    for row in range(7):
        alone = draw_tokens(
            logits[row : row + 1], keys_of([seeds[row]], "cpu"), torch.tensor([positions[row]])
        )
        assert alone.item() == together[row].item()


def test_what_a_cut_leaves_does_not_depend_on_how_it_is_looked_for():
    """top_p over flat rows, where a thousand tokens do not reach it, and peaked ones, against sorting."""
    draw = torch.Generator().manual_seed(4)
    scale = torch.tensor([[0.1], [1.0], [5.0]])
    logps = (scale * torch.randn(3, 3000, generator=draw)).log_softmax(-1)
    for top_p in (0.2, 0.9, 0.999):
        kept = keep_top_p(logps, top_p).isfinite()
        for row in range(3):
            p = sorted(logps[row].double().exp().tolist(), reverse=True)
            reached = np.cumsum(p)
            assert kept[row].sum().item() == 1 + int((reached < top_p).sum())
            assert torch.equal(keep_top_p(logps[row : row + 1], top_p).isfinite()[0], kept[row])


def test_tokens_that_are_equally_likely_stay_together():
    logps = torch.tensor([[0.2, 0.4, 0.2, 0.2]]).log()
    assert keep_top_p(logps, 0.5).isfinite().tolist() == [[True] * 4]
    assert keep_likely(logps, Sampling(top_k=2)).isfinite().tolist() == [[True] * 4]
